"""`python -m ray_jobs.recommend`: the verb `ss4rec recommend` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.recommend import recommend_command

if __name__ == "__main__":
    run(recommend_command)
