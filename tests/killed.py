"""Kills a child process at its n-th touch of the file system, for tests of what survives kill -9."""

import os
import sys
from collections.abc import Callable

TOUCHES = (
    "open",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.remove",
    "os.truncate",
    "shutil.copyfile",
)


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Run `work` in a forked child that is killed before its touch number `step`, from 1; returns whether it was.

    Raises:
        AssertionError: if the work failed before.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, args: object) -> None:
            nonlocal seen
            if event in TOUCHES:
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), 9)

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -9), f"the work itself ended with {code}"
    return code == -9
