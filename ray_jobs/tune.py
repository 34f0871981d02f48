"""`python -m ray_jobs.tune`: the verb `ss4rec tune` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.tune import tune_command

if __name__ == "__main__":
    run(tune_command)
