"""`python -m ray_jobs.score`: the verb `ss4rec score` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.score import score_command

if __name__ == "__main__":
    run(score_command)
