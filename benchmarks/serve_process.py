"""A server started by `ss4rec serve` in a session of its own, so that all of it can be killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

START_S = 120.0


class Server:
    """The server at a free port of this machine; it answers when the constructor returns.

    Args:
        run: run folder or a link to one.
        store: file of the event store.
        log: where its words go.
        options: more options of `ss4rec serve`.
    """

    def __init__(self, run: Path, store: Path, log: Path, options: Sequence[str] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = log
        command = [sys.executable, "-m", "ss4rec.cli", "serve", "--run", str(run), "--store", str(store)]
        command += ["--port", str(self.port), *options]
        if "--no-ray" not in options:
            command += ["--address", "local"]
        with log.open("w") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        self._wait()

    def _wait(self) -> None:
        began = time.monotonic()
        while time.monotonic() < began + START_S and self.process.poll() is None:
            try:
                self.call("/ready")
                return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.25)
        self.kill_all()
        raise RuntimeError(f"the server does not answer: {self.log.read_text()}")

    def call(self, path: str, body: Any = None, user: str = "1") -> Any:
        """Return the answer to a request, read from JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "x-session-id": user}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def cpu_s(self) -> dict[str, float]:
        """Return the processor seconds of the session's processes so far, by what each is called."""
        ticks, found = os.sysconf("SC_CLK_TCK"), dict[str, float]()
        for pid, command in self._processes():
            try:
                fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            name = command.split()[0].rpartition("/")[2] if command.strip() else "ended"
            found[name] = found.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / ticks
        return found

    def replicas(self) -> list[int]:
        """Return the process ids of Ray Serve's replicas."""
        return [pid for pid, command in self._processes() if command.startswith("ray::ServeReplica")]

    def kill_all(self) -> None:
        """Kill every process of the session with signal 9."""
        for pid, _ in list(self._processes()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(30)

    def _processes(self) -> Iterator[tuple[int, str]]:
        """Yield the processes of the session with their command lines."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(folder.name)) == self.process.pid:
                    yield int(folder.name), (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
