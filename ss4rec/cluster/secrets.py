"""Keeps keys and tokens out of what is written: whatever an environment variable with a telling name holds.

Those of a submitted job travel as its metadata. Ray logs the variables of a runtime environment, and shows them in the
process list while a worker starts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from ss4rec.cluster.ray_private import job_metadata

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
"""Names of environment variables whose values are secret."""
SENT = "ss4rec_secrets"
"""Key of a job's metadata under which its secrets travel."""
NAME = "SS4REC_SENT"
"""Key of the same, and variable of the workers: a random name of what was sent."""
HOOK = "ss4rec.cluster.secrets.adopt_in_worker"
"""What Ray shall call in each worker of a job with secrets."""
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


def adopt_in_driver() -> None:
    """Put the secrets that were sent with this job, if this is one, into this process's environment."""
    if config := os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        _adopt(json.loads(config).get("metadata", {}))


def adopt_in_worker() -> None:
    """Put the secrets that were sent with this worker's job into its environment.

    The job is found by the name that was sent along with both: a worker that was started ahead of its first task does
    not know its job yet.
    """
    for metadata in job_metadata():
        if metadata.get(NAME) == os.environ[NAME]:
            _adopt(metadata)


def _adopt(metadata: Mapping[str, str]) -> None:
    os.environ.update(json.loads(metadata.get(SENT, "{}")))
