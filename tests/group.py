"""Two worker processes joined by gloo, as `torch.multiprocessing.spawn` starts them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def run_pair(work: Callable[..., None], rendezvous: Path, *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in two processes of one group; an error of either is raised.

    Args:
        work: a function of a module.
        rendezvous: a file that does not exist yet.
        arguments: can be pickled.
    """
    mp.spawn(_member, (work, rendezvous, arguments), nprocs=2)


def _member(rank: int, work: Callable[..., None], rendezvous: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    work(rank, *arguments)
    torch.distributed.barrier()
    # Not by the interpreter's own way out: in about one of fifteen runs a thread of torch's process group then ends
    # the process with SIGABRT ("terminate called without an active exception"), after all work is done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
