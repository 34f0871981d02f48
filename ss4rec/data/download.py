"""Fetch a MovieLens archive from GroupLens: resumable, checked, atomic.

Bytes go to `NAME.zip.part`, whose modification time is kept at the server's `Last-Modified`. So a later attempt,
also one by another process, asks with `Range` and `If-Range` for the rest of the *same* file and needs no second
file for its state; within a process a strong ETag is used instead. A server that ignores the range or has changed the
file answers with the whole file, and the part starts again.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from os import utime
from pathlib import Path
from typing import TypeVar

import requests

from ss4rec.errors import DataError

BASE_URL = "https://files.grouplens.org/datasets/movielens"
CHUNK_BYTES = 1 << 16
ATTEMPTS = 6
TIMEOUT_S = 30.0
LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP answers that may be another one later."""

Result = TypeVar("Result")
Progress = Callable[[int, int | None], None]
"""Called with the bytes on disk and the whole size, if the server told it."""


@dataclass(frozen=True)
class Release:
    """A MovieLens release as its README counts it."""

    name: str
    ratings: int
    users: int
    movies: int
    """Rows of the movie table (some of them unrated)."""
    md5: str | None = None
    """As published for a release that never changes; None: read `NAME.zip.md5` from the server."""


RELEASES = {
    release.name: release
    for release in (
        Release("ml-100k", 100_000, 943, 1_682, "0e33842e24a9c977be4e0107933c0723"),
        Release("ml-1m", 1_000_209, 6_040, 3_883, "c4d9eecfca2ab87c1945afe126590906"),
        Release("ml-20m", 20_000_263, 138_493, 27_278, "cd245b17a1ae2cc31bb14903e1204af3"),
        Release("ml-25m", 25_000_095, 162_541, 62_423, "6b51fb2759a8657d3bfcbfc42b592ada"),
        Release("ml-32m", 32_000_204, 200_948, 87_585, "d472be332d4daa821edc399621853b57"),
        Release("ml-latest-small", 100_836, 610, 9_742),
    )
}


class _BrokenError(Exception):
    """An attempt failed in a way that another attempt may not."""


def download(
    release: Release,
    folder: Path,
    *,
    base: str = BASE_URL,
    sleep: Callable[[float], None] = time.sleep,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Return `folder/NAME.zip`, fetched from `base` unless it is there and has the right MD5.

    Up to ATTEMPTS attempts, 1, 2, 4, ... seconds apart, go on where the last one stopped.

    Raises:
        DataError: the server has no such file, cannot be reached, or sends something with another MD5; the disk is
            too small; or `NAME.zip` exists and is another file. Only a resumable `NAME.zip.part` may be left behind.
    """
    if not base.startswith(("http://", "https://")):
        raise DataError(f"--url {base} is no http address; leave it out for {BASE_URL}")
    url, path = f"{base.rstrip('/')}/{release.name}.zip", folder / f"{release.name}.zip"
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"
        md5 = release.md5 or _retry(lambda: _published_md5(session, f"{url}.md5"), url, path, sleep)
        if path.exists():
            _check_md5(path, md5, f"delete it to fetch {url} anew, or keep yours elsewhere")
            return path
        folder.mkdir(parents=True, exist_ok=True)
        part = _Part(folder / f"{path.name}.part", progress)
        _retry(lambda: part.fetch(session, url), url, path, sleep)
    try:
        _check_md5(part.path, md5, "it was deleted; run the same command again")
    except DataError:
        part.path.unlink()
        raise
    return part.path.replace(path)


class _Part:
    """The unfinished file and what identifies the version that it is a part of."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self.progress = progress
        self.etag: str | None = None

    def fetch(self, session: requests.Session, url: str) -> None:
        """Ask for what is missing and append it, or for everything if nothing fits.

        Raises:
            _BrokenError: the connection or the server failed; what came stays on disk.
            DataError: the answer will not change, or the disk is too small.
        """
        have = self.path.stat().st_size if self.path.exists() else 0
        try:
            with session.get(url, headers=self._range(have), stream=True, timeout=TIMEOUT_S) as response:
                if (
                    response.status_code == 416
                ):  # nothing is missing, or the file shrank: the checksum cannot tell yet
                    self.path.unlink()
                    raise _BrokenError("the part did not fit the file on the server and was dropped")
                _check_status(response, url)
                self._receive(response, have)
        except requests.RequestException as error:
            raise _BrokenError(str(error)) from None

    def _range(self, have: int) -> dict[str, str]:
        """Return the headers that ask for the rest of the version that the part belongs to."""
        if not have:
            return {}
        return {
            "Range": f"bytes={have}-",
            "If-Range": self.etag or formatdate(int(self.path.stat().st_mtime), usegmt=True),
        }

    def _receive(self, response: requests.Response, have: int) -> None:
        """Append the body of a 206, or write that of a 200 from the start."""
        if response.status_code == 206 and f"bytes {have}-" not in response.headers.get("Content-Range", ""):
            raise _BrokenError(
                f"the server sent {response.headers.get('Content-Range')!r} for bytes from {have}"
            )
        if response.status_code == 200:
            have = 0
        etag = response.headers.get("ETag", "")
        self.etag = etag if etag.startswith('"') else None
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        self._check_disk(int(length or 0))
        modified = response.headers.get("Last-Modified")
        # Without a date nobody can tell later which version this is: 0 (1970) matches none, so it starts again.
        stamp = parsedate_to_datetime(modified).timestamp() if modified else 0.0
        with self.path.open("ab" if have else "wb", buffering=0) as stream:
            for chunk in response.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                utime(stream.fileno(), (stamp, stamp))
                have += len(chunk)
                self.progress(have, total)
        if total is not None and have < total:
            raise _BrokenError(f"the connection ended after {have:,} of {total:,} bytes")

    def _check_disk(self, missing: int) -> None:
        """Refuse to start what cannot end."""
        free = shutil.disk_usage(self.path.parent).free
        if free < missing:
            raise DataError(
                f"{self.path.parent} has {free:,} bytes free and {missing:,} are missing; free some or name another "
                "--dir, then run the same command again"
            )


def _published_md5(session: requests.Session, url: str) -> str:
    """Return the MD5 that the server publishes, in either of the two usual layouts of `md5`."""
    try:
        response = session.get(url, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise _BrokenError(str(error)) from None
    _check_status(response, url)
    found = re.search(r"\b[0-9a-fA-F]{32}\b", response.text)
    if not found:
        raise DataError(f"{url} holds no MD5 but {response.text[:60]!r}; check --url")
    return found[0].lower()


def _check_status(response: requests.Response, url: str) -> None:
    """Let 200 and 206 pass; tell answers that may change from those that will not."""
    if response.status_code in LATER:
        raise _BrokenError(f"the server answered {response.status_code} {response.reason}")
    if response.status_code not in (200, 206):
        raise DataError(f"{url}: the server answered {response.status_code} {response.reason}; check --url")


def _check_md5(path: Path, expected: str, advice: str) -> None:
    """Compare a file's MD5 with what was published."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(f"{path} has MD5 {found}, published is {expected}; {advice}")


def _retry(attempt: Callable[[], Result], url: str, path: Path, sleep: Callable[[float], None]) -> Result:
    """Call `attempt` until it does not break, ATTEMPTS times at most."""
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except _BrokenError as broken:
            last = broken
        if number + 1 < ATTEMPTS:
            sleep(2.0**number)
    raise DataError(
        f"{url} could not be fetched in {ATTEMPTS} attempts, the last: {last}; run the same command again to go on "
        f"where it stopped, or put the archive at {path} by hand"
    )
