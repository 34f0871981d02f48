"""`python -m ray_jobs.similar`: the verb `ss4rec similar` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.similar import similar_command

if __name__ == "__main__":
    run(similar_command)
