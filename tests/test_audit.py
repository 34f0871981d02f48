"""The check of installed packages against the lock and of the lock against known advisories."""

import json
import runpy
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

AUDIT = runpy.run_path(str(Path(__file__).parents[1] / "tools/audit.py"))


def test_differences_from_the_lock():
    """Seen to fail: without the comparison of versions; without the look at the lock."""
    lock = AUDIT["locked"]("# words\nTorch==2.13.0\ntyping_extensions==4.1  # why\n")
    fine = {"torch": "2.13.0+cpu", "typing-extensions": "4.1", "pip": "99", "nvidia-nccl-cu13": "2"}
    assert AUDIT["differences"](lock, fine) == []
    found = AUDIT["differences"](lock, {"torch": "2.14.0", "stranger": "1"})
    assert found == [
        "stranger 1 is installed and not in constraints.txt",
        "torch 2.14.0 is installed, constraints.txt has 2.13.0",
    ]


LOCK = {"torch": "2.13.0+cpu", "ray": "2.60.0"}


@contextmanager
def service(answer):
    """A service that answers every question with the bytes; yields its address and the list of questions."""
    questions = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            questions.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", questions
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_advisory_fails_the_check_unless_accepted(capsys, monkeypatch):
    """One question about all packages; an advisory is named, and fails the check until it is accepted.

    Seen to fail: with `code = 1` left out; with the answers taken in another order.
    """
    answer = json.dumps({"results": [{}, {"vulns": [{"id": "PYSEC-1"}]}]}).encode()
    with service(answer) as (url, questions):
        assert AUDIT["check_advisories"](LOCK, url) == 1
        out = capsys.readouterr().out
        assert "torch 2.13.0+cpu: https://osv.dev/PYSEC-1 (not accepted)\n" in out
        assert "asked about 2 packages: 1 of them" in out
        monkeypatch.setitem(AUDIT["ACCEPTED"], "PYSEC-1", "we do not call it")
        assert AUDIT["check_advisories"](LOCK, url) == 0
        assert "(we do not call it)" in capsys.readouterr().out
    assert [query["package"]["name"] for query in questions[0]["queries"]] == ["ray", "torch"]
    assert [query["version"] for query in questions[0]["queries"]] == ["2.60.0", "2.13.0"]


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"results": [{}]}', b'{"results": [1, 2]}', None])
def test_no_answer_is_said_and_fails_nothing(capsys, answer):
    """A network that is away, or a proxy's page in place of an answer: one warning, and the check goes on.

    Seen to fail: without the `except` of `check_advisories`; with the count of answers not compared.
    """
    if answer is None:
        with service(b"") as (url, _):
            pass  # nobody listens there any more
        assert AUDIT["check_advisories"](LOCK, url) == 0
    else:
        with service(answer) as (url, _):
            assert AUDIT["check_advisories"](LOCK, url) == 0
    out = capsys.readouterr().out
    assert out.startswith("warning: known vulnerabilities were not looked up")
    assert out.count("\n") == 1
