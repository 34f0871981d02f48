"""`python -m ray_jobs.prepare`: the verb `ss4rec data prepare` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.prepare import prepare_command

if __name__ == "__main__":
    run(prepare_command)
