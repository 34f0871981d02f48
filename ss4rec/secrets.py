"""Keeps keys and tokens out of what is written: whatever an environment variable with a telling name holds."""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
"""Names of environment variables whose values are secret."""
_LEAST = 6
"""Shorter values are no secrets, and blotting them out would garble everything."""
_IN_URL = re.compile(r"(?<=://)[^/\s@:]+:[^/\s@]+(?=@)")


def is_secret(name: str) -> bool:
    """Return whether an environment variable of this name holds a secret."""
    return SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Return `text` without the values of secret environment variables and without passwords in addresses."""
    for name, value in os.environ.items():
        if len(value) >= _LEAST and is_secret(name):
            text = text.replace(value, f"<{name}>")
    return _IN_URL.sub("<user:password>", text)
