"""Rim: files of lists from a pool of actors of Ray Data; an actor holds the model and takes shards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from ss4rec import errors
from ss4rec.data.batches.ray_source import dataset_name
from ss4rec.evaluation.ray_evaluate import require_room
from ss4rec.recommendations.job import Runner
from ss4rec.recommendations.output import PartRecord
from ss4rec.recommendations.parts import PartMaker, Work

PARTS_AT_ONCE = 4
"""Shards that an actor has under way, so that it reads the next one and writes the last one beside its model."""
CALLS_AT_ONCE = 2
"""Groups of them on an actor with a GPU, so that the GPU works while one group begins and another ends."""


def on_ray(workers: int, gpu: bool, calls: int | None = None) -> Runner:
    """Return what makes files on the cluster that this process has joined.

    A file of a worker that died is made again by another one.

    Args:
        workers: actors; each takes one CPU, or one GPU with `gpu`.
        gpu: whether models run on GPUs.
        calls: groups of shards that an actor has under way; None: `CALLS_AT_ONCE` with `gpu`, else one.
    """
    calls = calls or (CALLS_AT_ONCE if gpu else 1)

    def run(work: Work, numbers: Sequence[int]) -> Iterator[PartRecord]:
        require_room(workers, gpu, "workers that recommend")
        together = min(PARTS_AT_ONCE // calls, -(-len(numbers) // workers))
        blocks = -(-len(numbers) // together)
        found = ray.data.from_items([{"part": number} for number in numbers], override_num_blocks=blocks)
        rows = found.map_batches(
            _Maker,
            fn_constructor_args=(work, "cuda" if gpu else "cpu"),
            batch_size=1,  # Ray Data asks for a number where there are GPUs
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
            yield PartRecord.model_validate(json.loads(row["message"]))

    return run


class _Maker:
    """One actor."""

    def __init__(self, work: Work, device: str) -> None:
        self.maker = PartMaker(work, device)

    def __call__(self, parts: dict[str, npt.NDArray[Any]]) -> pa.Table:
        """Make the files of some shards; a row per file.

        An error of ours travels as a row, since Ray Data passes on that there was one, and not which.
        """
        try:
            records = [record.model_dump_json() for record in self.maker.make(parts["part"].tolist())]
        except errors.SS4RecError as error:
            return pa.table({"error": [type(error).__name__], "message": [str(error)]})
        return pa.table({"error": [""] * len(records), "message": records})
