"""One shard of users becomes one file of lists: the work of a worker, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import file_record
from ss4rec.errors import ContractError
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.io.atomic import write_json
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import read_json
from ss4rec.recommendations.histories import Histories
from ss4rec.recommendations.lists import ListRules, best_lists
from ss4rec.recommendations.output import PART, PartRecord, lists_table, write_part
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.load import load_model


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs; can be sent to one."""

    run_dir: Path
    weights_sha256: str
    """Of the checkpoint that was chosen when the job began."""
    data: PreparedFolder
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
        """Return the name of a shard's file."""
        return f"{PART}{number:05d}.{self.histories.options.format}"

    def record_path(self, number: int) -> AnyPath:
        """Return where the record of a complete file lies."""
        return self.records / f"{PART}{number:05d}.json"

    def done(self, number: int) -> PartRecord | None:
        """Return the record of a file that an earlier attempt completed."""
        path = self.record_path(number)
        return PartRecord.model_validate(read_json(path)) if path.is_file() else None


class PartMaker:
    """A model that makes files.

    Args:
        work: the job.
        device: where the model runs.

    Raises:
        ContractError: if the run has another best checkpoint by now.
    """

    def __init__(self, work: Work, device: str) -> None:
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

    def make(self, numbers: Sequence[int]) -> Iterator[PartRecord]:
        """Make the files of some shards and yield their records; reading ahead and writing run beside the model."""
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            ahead = [reader.submit(self.work.data.read_shard, number) for number in numbers[:1]]
            written: list[Future[PartRecord]] = []
            for place, number in enumerate(numbers):
                shard = ahead.pop().result()
                ahead = [
                    reader.submit(self.work.data.read_shard, later)
                    for later in numbers[place + 1 : place + 2]
                ]
                table, users, lists, items = self._lists(shard)
                written.append(writer.submit(self._write, number, table, users, lists, items))
                if len(written) > 1:
                    yield written.pop(0).result()
            for future in written:
                yield future.result()

    def _lists(self, shard: pa.Table) -> tuple[pa.Table, int, int, int]:
        """Return the lists of a shard as a table, and how many users, lists and items it has."""
        users, items, scores, lengths = [], [], [], []
        known = self.work.time_known
        for batch in self.work.histories.batches(shard):
            found = self.scorer.scores(batch, target_time_known=known)
            items_BK, best_BK = best_lists(found, batch, self.rules)
            users.append(batch.users_S.numpy())
            lengths.append(batch.histories_S.numpy())
            items.append(items_BK.cpu().numpy())
            scores.append(best_BK.float().cpu().numpy())
        options = self.work.histories.options
        k = min(options.k, len(self.work.item_ids))
        users_N, lengths_N = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (users, lengths))
        items_NK = np.concatenate([np.zeros((0, k), np.int64), *items])
        table = lists_table(
            self.work.data.users["source_id"].combine_chunks().take(pa.array(users_N)),
            self.work.item_ids,
            items_NK,
            np.concatenate([np.zeros((0, k), np.float32), *scores]),
            options.layout,
            lengths_N if self.work.several else None,
        )
        return table, len(np.unique(users_N)), len(users_N), int((items_NK > 0).sum())

    def _write(self, number: int, table: pa.Table, users: int, lists: int, items: int) -> PartRecord:
        """Write a file, and then that it is complete."""
        path = self.work.results / self.work.name(number)
        write_part(path, table, self.work.histories.options.format)
        record = PartRecord(
            name=path.name, users=users, lists=lists, items=items, **file_record(path).model_dump()
        )
        write_json(self.work.record_path(number), record.model_dump())
        return record
