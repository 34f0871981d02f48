"""`python -m ray_jobs.drift`: the verb `ss4rec drift` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.drift import drift_command

if __name__ == "__main__":
    run(drift_command)
