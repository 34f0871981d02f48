"""A head or another node of `ray start --block`, as a process of its own."""

import subprocess

from tests.progress import until


def begun(command, environment, log):
    """Start a node and return its process once it says that it runs.

    Raises:
        AssertionError: with what it printed, if it ended.
    """
    with log.open("w") as file:
        node = subprocess.Popen(command, env=environment, stdout=file, stderr=file)

    def runs():
        assert node.poll() is None, log.read_text()
        return "Ray runtime started" in log.read_text()

    until(runs, every_s=0.2)
    return node
