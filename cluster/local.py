"""`python -m cluster.local start | stop | status`: `local.sh`, also from an installed package."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Become the script, with this Python's programs first on PATH: `ray` need not be on it."""
    script = Path(__file__).with_name("local.sh")
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])}
    # The script beside this file, with the words of whoever called it and no shell between.
    os.execvpe("bash", ["bash", str(script), *sys.argv[1:]], environment)  # nosec B606


if __name__ == "__main__":
    main()
