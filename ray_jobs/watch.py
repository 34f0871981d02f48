"""`python -m ray_jobs.watch`: the verb `ss4rec watch` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.watch import watch_command

if __name__ == "__main__":
    run(watch_command)
