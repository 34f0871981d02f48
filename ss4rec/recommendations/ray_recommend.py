"""Rim: files of lists from a pool of actors of Ray Data; an actor holds the model and takes files to make.

An actor imports this file before anything else, so torch is not among its imports: see `_Maker`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from ss4rec import errors
from ss4rec.cluster.pool import dataset_name, require_room
from ss4rec.io.kept_memory import keep_freed_memory
from ss4rec.recommendations.start import Start, open_card

if TYPE_CHECKING:
    from ss4rec.recommendations.job import Runner
    from ss4rec.recommendations.output import PartRecord
    from ss4rec.recommendations.parts import Work

PARTS_AT_ONCE = 4
"""Files that an actor has under way, so that it reads for the next one and writes the last one beside its model."""
TURNS = 4
"""Groups of files that an actor makes at least, if there are so many: actors then end at about the same time."""
CALLS_AT_ONCE = 2
"""Groups of them on an actor with a GPU, so that the GPU works while one group begins and another ends."""


@dataclass(frozen=True)
class GroupNote:
    """What is told of a group of files that an actor has made."""

    actor: str
    """Ray's id of the actor."""
    files: int
    ended_s: float
    """Seconds after the job asked for workers."""
    start: dict[str, float]
    """With the first group of an actor: when the parts of its start had ended; see `Start`."""


def on_ray(
    workers: int,
    gpu: bool,
    calls: int | None = None,
    tell: Callable[[GroupNote], None] = lambda note: None,
) -> Runner:
    """Return what makes files on the cluster that this process has joined.

    A file of a worker that died is made again by another one.

    Args:
        workers: actors; each takes one CPU, or one GPU with `gpu`.
        gpu: whether models run on GPUs.
        calls: groups of files that an actor has under way; None: `CALLS_AT_ONCE` with `gpu`, else one.
        tell: is told of each group of files.
    """
    calls = calls or (CALLS_AT_ONCE if gpu else 1)

    def run(work: Work, numbers: Sequence[int]) -> Iterator[PartRecord]:
        from ss4rec.recommendations.output import PartRecord

        require_room(workers, gpu, "workers that recommend")
        together = min(PARTS_AT_ONCE // calls, -(-len(numbers) // (workers * TURNS)))
        blocks = -(-len(numbers) // together)
        found = ray.data.from_items([{"part": number} for number in numbers], override_num_blocks=blocks)
        rows = found.map_batches(
            _Maker,
            fn_constructor_args=(bytes(ray.cloudpickle.dumps(work)), "cuda" if gpu else "cpu", time.time()),
            batch_size=together,  # a block; Ray Data asks for a number where there are GPUs
            compute=ActorPoolStrategy(
                size=min(workers, blocks),
                # Few wait at an actor, so that actors end at the same time.
                max_tasks_in_flight_per_actor=calls + 1,
                max_concurrent_calls_per_actor=calls if calls > 1 else None,
                enable_true_multi_threading=calls > 1,
            ),
            num_cpus=0 if gpu else 1,
            num_gpus=1 if gpu else 0,
        )
        rows.set_name(dataset_name(work.data.manifest.name, "lists"))
        for row in rows.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"])
            if row["note"]:
                tell(GroupNote(**json.loads(row["note"])))
            yield PartRecord.model_validate(json.loads(row["message"]))

    return run


class _Maker:
    """One actor.

    Args:
        work: the job, pickled: to read it imports torch, and the CUDA context is made beside that.
        device: where the model runs.
        asked_at: unix time at which the job asked for the actor.
    """

    def __init__(self, work: bytes, device: str, asked_at: float) -> None:
        keep_freed_memory()
        self._start = Start(asked_at)
        self._start.note("actor_started_s")
        context = open_card(device)
        from ss4rec.recommendations.parts import PartMaker

        opened = ray.cloudpickle.loads(work)
        self._start.note("imports_s")
        context.join()
        self._maker = PartMaker(opened, device, self._start.note)

    def __call__(self, parts: dict[str, npt.NDArray[Any]]) -> pa.Table:
        """Make files by their numbers; a row per file.

        An error of ours travels as a row, since Ray Data passes on that there was one, and not which.
        """
        messages = []
        try:
            for record in self._maker.make(parts["part"].tolist()):
                self._start.note("first_file_s")
                messages.append(record.model_dump_json())
        except errors.SS4RecError as error:
            return pa.table({"error": [type(error).__name__], "message": [str(error)], "note": [""]})
        notes = [self._note(len(messages)), *[""] * (len(messages) - 1)]
        return pa.table({"error": [""] * len(messages), "message": messages, "note": notes})

    def _note(self, files: int) -> str:
        ended_s = round(time.time() - self._start.asked_at, 3)
        actor = ray.get_runtime_context().get_actor_id() or ""
        return json.dumps(
            {"actor": actor, "files": files, "ended_s": ended_s, "start": self._start.reported()}
        )
