"""`python -m ray_jobs.evaluate`: the verb `ss4rec evaluate` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.evaluate import evaluate_command

if __name__ == "__main__":
    run(evaluate_command)
