"""`ss4rec submit` up to the Jobs API; tests/cluster submits real jobs."""

from types import SimpleNamespace

from tests.cli.harness import Case, parametrised


class Client:
    """Takes a job."""

    submitted: dict

    def submit_job(self, **job):
        Client.submitted = job
        return "job-1"

    def get_address(self):
        return "http://head:8265"

    def get_job_info(self, job_id):
        return SimpleNamespace(status="SUCCEEDED", driver_exit_code=0, message="")


def _sent(seen):
    ((address,), _) = seen.calls[0]
    assert address == "http://head:8265"
    assert Client.submitted["entrypoint"] == "python -m ray_jobs.train --data /d --storage /s --json"
    assert Client.submitted["runtime_env"]["env_vars"]["WORD"] == "x"
    assert "ray job logs --follow" in seen.out


CASES = (
    Case(
        "submit train --address http://head:8265 --env WORD=x --no-wait -- --data /d --storage /s --json",
        _sent,
        stub="ss4rec.cluster.submit.connect",
        answer=Client(),
    ),
    Case("submit train -- --data d --storage /s", lambda seen: _has(seen.err, "--data d"), 2),
)


def _has(text, words):
    assert words in text


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
