"""`python -m ray_jobs.doctor`: the verb `ss4rec doctor` as the entry point of a Ray job."""

from ss4rec.cli import run
from ss4rec.cli.doctor import doctor_command

if __name__ == "__main__":
    run(doctor_command)
