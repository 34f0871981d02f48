"""Recorded graphs on disk: who starts later with the same model need not record them again.

A graph is a program of torch's, so it is only taken from a folder that nobody else can write to. What is missing,
damaged or of another version of torch or ss4rec is recorded anew.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ss4rec import __version__
from ss4rec.io.atomic import write_whole

logger = logging.getLogger(__name__)
MOST_FILES = 6
"""Graphs that are kept, two for each model; those that were written longest ago go first."""
OTHERS_MAY_WRITE = 0o022


def kept_graph(folder: Path, name: str, record: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """Return a graph from a folder, or record it and leave it there.

    Args:
        folder: made if there is none; the one that it lies in is not.
        name: of the graph and its model.
        record: makes the graph.
    """
    path = folder / f"{name}-{__version__}-{torch.__version__}.pt"
    if (found := _read(path)) is not None:
        return found
    graph = record()
    _write(path, graph)
    return graph


def _read(path: Path) -> Callable[..., Any] | None:
    """Return the graph of a file; None where there is none to be trusted."""
    try:
        if not _own(path.parent) or not path.exists():
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's future, as in `ss4rec.states.traced`
            graph: Callable[..., Any] = torch.jit.load(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        logger.warning("the graph %s is recorded anew: %s", path, error)
        return None
    return graph


def _write(path: Path, graph: Callable[..., Any]) -> None:
    """Keep a graph; what the disk refuses is recorded again by whoever comes next."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not _own(path.parent):
            logger.warning("others may write to %s: graphs are not kept there", path.parent)
            return
        data = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(graph, data)
        write_whole(path, data.getvalue())
        for old in sorted(path.parent.glob("*.pt"), key=lambda file: file.stat().st_mtime_ns)[:-MOST_FILES]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("the graph %s is not kept: %s", path, error)


def _own(folder: Path) -> bool:
    """Return whether a folder is this user's and nobody else can write to it."""
    if not folder.exists():
        return False
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & OTHERS_MAY_WRITE
