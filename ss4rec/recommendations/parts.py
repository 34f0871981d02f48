"""Some rows of a shard become one file of lists: the work of a worker, wherever it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ss4rec.data.batches.batch import EvalBatch
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import file_record
from ss4rec.errors import ContractError
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.io.atomic import write_json
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import read_json
from ss4rec.kernels.launch import compile_together
from ss4rec.model.item_scores import ItemScores
from ss4rec.recommendations.histories import Histories
from ss4rec.recommendations.lists import ListRules, best_lists
from ss4rec.recommendations.output import PART, PartRecord, lists_table, write_part
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model

MIN_USERS = 1024
"""Minimum users of a batch on a GPU, which fewer do not fill. Part of what decides the last bits of scores."""
PIECE_USERS = 512
"""Most users of a file that a CPU makes: of few large ones, workers would not end together. A GPU's file is a shard."""
WRITERS = 2
"""Files that one call writes at a time: a card makes lists faster than one core packs them."""


@dataclass(frozen=True)
class Piece:
    """Whose lists one file holds: rows `first` to `stop - 1` of a shard."""

    shard: int
    first: int
    stop: int


def pieces_of(data: PreparedFolder, users: int | None) -> tuple[Piece, ...]:
    """Return the files of a job, in the order of users: shards, or stretches of at most so many `users` of each."""
    found = []
    for shard, record in enumerate(data.manifest.shards):
        size = users or record.rows
        for first in range(0, record.rows, size):
            found.append(Piece(shard, first, min(first + size, record.rows)))
    return tuple(found)


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs; can be sent to one."""

    run_dir: Path
    weights_sha256: str
    """Of the checkpoint that was chosen when the job began."""
    data: PreparedFolder
    pieces: tuple[Piece, ...]
    """The files of the job; they are called by their place here."""
    histories: Histories
    rules: ListRules
    item_ids: pa.Array
    """Source id of item 1, 2, ..."""
    time_known: bool
    """Whether histories say when the next item is asked for."""
    asked_from_s: int | None
    """See `ModelScorer`."""
    results: AnyPath
    """Where the files go."""
    records: AnyPath
    """Where it is noted that a file is complete."""

    @property
    def several(self) -> bool:
        """Whether a user may have several lists."""
        return self.histories.options.until != "end"

    def name(self, number: int) -> str:
        """Return the name of a file."""
        return f"{PART}{number:05d}.{self.histories.options.format}"

    def record_path(self, number: int) -> AnyPath:
        """Return where the record of a complete file lies."""
        return self.records / f"{PART}{number:05d}.json"

    def done(self, number: int) -> PartRecord | None:
        """Return the record of a file that an earlier attempt completed."""
        path = self.record_path(number)
        return PartRecord.model_validate(read_json(path)) if path.is_file() else None


@dataclass(frozen=True)
class Ranked:
    """The lists of a file."""

    users_N: npt.NDArray[np.int64]
    """User of each list."""
    lengths_N: npt.NDArray[np.int64]
    """Events before it."""
    items_NK: npt.NDArray[np.int64]
    """Items, best first, 0 for an empty place."""
    scores_NK: npt.NDArray[np.float32]
    """Their scores."""


class PartMaker:
    """A model that makes files.

    Args:
        work: the job.
        device: where the model runs.
        note: is told when a part of the start has ended, by its name.

    Raises:
        ContractError: if the run has another best checkpoint by now.
    """

    def __init__(self, work: Work, device: str, note: Callable[[str], None] = lambda name: None) -> None:
        if device.startswith("cuda"):
            torch.zeros(1, device=device)
        note("cuda_s")
        folder = RunFolder.open(work.run_dir)
        chosen = checkpoint.best(folder.checkpoints)
        if chosen.model_sha256 != work.weights_sha256:
            raise ContractError(
                f"the run {work.run_dir.name} was trained on while this job runs, so its lists would be of two models; "
                "start again with --overwrite when training has ended"
            )
        model, config = load_model(work.run_dir, device)
        gap_s = folder.record().median_gap_s
        self.work = work
        self.scorer = ModelScorer(model, gap_s, config.data.target_time, work.asked_from_s)
        self.rules = work.rules.to(self.scorer.device, model.item_matrix())
        self._ranking = threading.Lock()
        self._note = note
        self._compiled: set[tuple[bool, bool]] = set()
        note("model_s")

    def make(self, numbers: Sequence[int]) -> Iterator[PartRecord]:
        """Make files by their numbers and yield their records; reading ahead and writing run beside the model.

        Threads may call it at the same time: one ranks while the others read and write.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(WRITERS) as writer:
            ahead = [reader.submit(self._read, number) for number in numbers[:1]]
            written: list[Future[PartRecord]] = []
            for place, number in enumerate(numbers):
                batches = ahead.pop().result()
                ahead = [reader.submit(self._read, later) for later in numbers[place + 1 : place + 2]]
                with self._ranking:
                    ranked = self._rank(batches)
                written.append(writer.submit(self._write, number, ranked))
                if len(written) > WRITERS:
                    yield written.pop(0).result()
            for future in written:
                yield future.result()

    def _read(self, number: int) -> list[EvalBatch]:
        """Return the histories of a file."""
        users, piece = MIN_USERS if self.scorer.device.type == "cuda" else 1, self.work.pieces[number]
        rows = self.work.data.read_shard(piece.shard).slice(piece.first, piece.stop - piece.first)
        return list(self.work.histories.batches(rows, users))

    def _rank(self, batches: Sequence[EvalBatch]) -> Ranked:
        """Return the lists of a file."""
        items = [np.zeros((0, self._k), np.int64)]
        scores = [np.zeros((0, self._k), np.float32)]
        for batch in batches:
            self._compile(batch)
            found = self._scores(batch)
            items_BK, best_BK = best_lists(found, batch, self.rules)
            items.append(items_BK.cpu().numpy())
            scores.append(best_BK.float().cpu().numpy())
        users = [np.zeros(0, np.int64), *(batch.users_S.numpy() for batch in batches)]
        lengths = [np.zeros(0, np.int64), *(batch.histories_S.numpy() for batch in batches)]
        return Ranked(*map(np.concatenate, (users, lengths, items, scores)))

    def _scores(self, batch: EvalBatch) -> ItemScores:
        return self.scorer.scores(batch, target_time_known=self.work.time_known)

    def _compile(self, batch: EvalBatch) -> None:
        """Compile side by side what a batch launches; Triton would do it one after another.

        Triton compiles a kernel anew for sizes that are multiples of 16, and for those that are not.
        """
        kind = (batch.num_sequences % 16 == 0, len(batch.items_T) % 16 == 0)
        if self.scorer.device.type != "cuda" or kind in self._compiled:
            return
        compile_together(lambda: self._scores(batch))
        self._compiled.add(kind)
        self._note("kernels_s")

    @property
    def _k(self) -> int:
        return min(self.rules.options.k, len(self.work.item_ids))

    def _write(self, number: int, ranked: Ranked) -> PartRecord:
        """Write a file, and then that it is complete."""
        options, path = self.work.histories.options, self.work.results / self.work.name(number)
        table = lists_table(
            self.work.data.users["source_id"].combine_chunks().take(pa.array(ranked.users_N)),
            self.work.item_ids,
            ranked.items_NK,
            ranked.scores_NK,
            options.layout,
            ranked.lengths_N if self.work.several else None,
        )
        write_part(path, table, options.format)
        record = PartRecord(
            name=path.name,
            users=len(np.unique(ranked.users_N)),
            lists=len(ranked.users_N),
            items=int((ranked.items_NK > 0).sum()),
            **file_record(path).model_dump(),
        )
        write_json(self.work.record_path(number), record.model_dump())
        return record
