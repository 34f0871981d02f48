"""Against a server on the loopback that fails in chosen ways; no test leaves the machine or sleeps."""

import hashlib
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ss4rec.cli.get import get_command
from ss4rec.data import download as module
from ss4rec.data.download import ATTEMPTS, RELEASES, Release, download
from ss4rec.errors import DataError

OLD, NEW = (bytes([byte]) * 700_000 for byte in b"on")
RELEASE = Release("ml-test", 1, 2, 3)


@dataclass
class Script:
    """What the server does; `cuts` and `statuses` are used up, one an archive request."""

    body: bytes = OLD
    etag: str | None = '"old"'
    modified: str | None = formatdate(1_000_000_000, usegmt=True)
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    md5: str | None = None
    ranges: bool = True
    after_cut: dict = field(default_factory=dict)
    seen: list[tuple[str | None, str | None]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    script: Script

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        script = self.script
        if self.path.endswith(".md5"):
            digest = script.md5 or hashlib.md5(script.body).hexdigest()
            return self.answer(200, f"MD5 (ml-test.zip) = {digest}\n".encode())
        if self.path != "/ml-test.zip":
            return self.answer(404, b"")
        wanted, version = self.headers.get("Range"), self.headers.get("If-Range")
        script.seen.append((wanted, version))
        if script.statuses:
            return self.answer(script.statuses.pop(0), b"")
        headers = {"ETag": script.etag, "Last-Modified": script.modified}
        body, status = script.body, 200
        if wanted and script.ranges and version in (script.etag, script.modified):
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            body, status = script.body[first:], 206
            headers["Content-Range"] = f"bytes {first}-{len(script.body) - 1}/{len(script.body)}"
            if not body:
                return self.answer(416, b"")
        cut = script.cuts.pop(0) if script.cuts else None
        self.answer(status, body, headers, cut)
        if cut is not None:
            for name, value in script.after_cut.items():
                setattr(script, name, value)

    def answer(self, status, body, headers=None, cut=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    script = Script()
    handler = type("Scripted", (Handler,), {"script": script})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield SimpleNamespace(script=script, base=f"http://127.0.0.1:{httpd.server_port}")
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def fetch(server, folder, release=RELEASE, **options):
    waits = []
    path = download(release, folder, base=server.base, sleep=waits.append, **options)
    return path, waits


def names(folder: Path):
    return sorted(path.name for path in folder.iterdir())


def test_whole_file_at_once(server, tmp_path: Path):
    told = []
    path, waits = fetch(server, tmp_path / "new", progress=lambda *step: told.append(step))
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["ml-test.zip"]
    assert waits == []
    assert told[-1] == (len(OLD), len(OLD))


def test_present_file_is_checked_and_not_fetched_again(server, tmp_path: Path):
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert len(server.script.seen) == 1
    (tmp_path / "ml-test.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match="delete it"):
        fetch(server, tmp_path)
    assert (tmp_path / "ml-test.zip").read_bytes() == b"mine"


def test_dropped_connections_resume_by_etag_with_backoff(server, tmp_path: Path):
    server.script.cuts = [300_000, 100_000]
    path, waits = fetch(server, tmp_path)
    assert path.read_bytes() == OLD
    assert waits == [1.0, 2.0]
    first, second, third = server.script.seen
    assert first == (None, None)
    assert second[1] == third[1] == '"old"'
    assert 0 < int(second[0][6:-1]) < int(third[0][6:-1]) <= 400_000


def test_another_run_resumes_by_the_date_of_the_part(server, tmp_path: Path):
    server.script.cuts = [300_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(DataError, match="run the same command again"):
        fetch(server, tmp_path)
    assert names(tmp_path) == ["ml-test.zip.part"]
    have = (tmp_path / "ml-test.zip.part").stat().st_size
    assert 0 < have <= 300_000
    server.script.seen.clear()
    path, _ = fetch(server, tmp_path)
    assert path.read_bytes() == OLD
    assert server.script.seen == [(f"bytes={have}-", server.script.modified)]


def test_a_server_without_dates_and_tags_starts_again(server, tmp_path: Path):
    server.script.etag = server.script.modified = None
    server.script.cuts = [300_000]
    path, _ = fetch(server, tmp_path)
    assert path.read_bytes() == OLD
    assert server.script.seen[1] == (server.script.seen[1][0], formatdate(0, usegmt=True))


def test_a_server_that_ignores_ranges_starts_again(server, tmp_path: Path):
    server.script.ranges = False
    server.script.cuts = [600_000]
    path, _ = fetch(server, tmp_path)
    assert path.read_bytes() == OLD
    assert server.script.seen[1][0] is not None


@pytest.mark.parametrize("release", [RELEASE, Release("ml-test", 1, 2, 3, hashlib.md5(NEW).hexdigest())])
def test_a_file_that_changes_between_attempts_is_never_mixed(server, tmp_path: Path, release):
    server.script.cuts = [300_000]
    server.script.after_cut = {"body": NEW, "etag": '"new"'}
    if release.md5:
        path, _ = fetch(server, tmp_path, release)
        assert path.read_bytes() == NEW
    else:  # the checksum was read before the change
        with pytest.raises(DataError, match="was deleted; run the same command again"):
            fetch(server, tmp_path, release)
        assert names(tmp_path) == []


def test_a_date_that_changed_between_runs_starts_again(server, tmp_path: Path):
    server.script.cuts = [300_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(DataError):
        fetch(server, tmp_path)
    server.script.body, server.script.etag = NEW, '"new"'
    server.script.modified = formatdate(1_000_000_500, usegmt=True)
    path, _ = fetch(server, tmp_path)
    assert path.read_bytes() == NEW


def test_wrong_checksum_deletes_the_part(server, tmp_path: Path):
    server.script.md5 = "0" * 32
    with pytest.raises(DataError, match="published is 0000"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_complete_part_that_the_server_cannot_extend_is_fetched_anew(server, tmp_path: Path):
    part = tmp_path / "ml-test.zip.part"
    part.write_bytes(OLD)
    module.utime(part, (1_000_000_000, 1_000_000_000))
    path, _ = fetch(server, tmp_path)
    assert path.read_bytes() == OLD


def test_busy_server_is_asked_again_a_bounded_number_of_times(server, tmp_path: Path):
    server.script.statuses = [503, 429]
    assert fetch(server, tmp_path / "a")[1] == [1.0, 2.0]
    server.script.statuses = [503] * 99
    with pytest.raises(DataError, match="503"):
        fetch(server, tmp_path / "b")
    assert len(server.script.statuses) == 99 - ATTEMPTS
    assert names(tmp_path / "b") == []


def test_missing_file_is_not_asked_for_again(server, tmp_path: Path):
    with pytest.raises(DataError, match=r"nothing\.zip: the server answered 404.*--url"):
        fetch(server, tmp_path, Release("nothing", 1, 1, 1, "0" * 32))
    assert names(tmp_path) == []


def test_unreachable_server(tmp_path: Path, server):
    server.base = "http://127.0.0.1:9"
    with pytest.raises(DataError, match="by hand"):
        fetch(server, tmp_path)
    with pytest.raises(DataError, match="no http address"):
        download(RELEASE, tmp_path, base="files.example")


def test_full_disk_is_refused_before_the_first_byte(server, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=len(OLD) - 1))
    with pytest.raises(DataError, match="699,999 bytes free and 700,000 are missing"):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_md5_page_without_md5(server, tmp_path: Path):
    server.script.md5 = "<html>moved</html>"
    with pytest.raises(DataError, match="holds no MD5"):
        fetch(server, tmp_path)


def test_every_fixed_release_is_pinned():
    assert {name for name, release in RELEASES.items() if release.md5 is None} == {"ml-latest-small"}
    assert all(len(release.md5) == 32 for release in RELEASES.values() if release.md5)


def test_command_prints_counts_and_licence(server, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(RELEASES, "ml-1m", RELEASE)
    result = CliRunner().invoke(
        get_command, ["ml-1m", "--dir", str(tmp_path), "--url", server.base], catch_exceptions=False
    )
    assert (tmp_path / "ml-test.zip").read_bytes() == OLD
    assert "1 ratings, 2 users, 3 movies" in result.output
    assert "no commercial use" in result.output
