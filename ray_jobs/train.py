"""`python -m ray_jobs.train`: the verb `ss4rec train` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.train import train_command

if __name__ == "__main__":
    run(train_command)
