"""What an evaluation leaves in the run folder, so that runs can be compared user by user and looked at later.

RUN/evaluation/NAME/targets.parquet   a row per ranked event: user, item, times, and what segments are made of
RUN/evaluation/NAME/ranks.parquet     in the same order: ranks of all scorers, the model's lists, ends of histories
RUN/evaluation/NAME/result.json       metrics of all of them, protocol, data, time taken

NAME is `test` or `valid`, with the protocol's name if that is not the run's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from ss4rec.data.batches.windows import Split
from ss4rec.errors import DataError
from ss4rec.evaluation.evaluator import SETTINGS, EvalResult, Seen, TargetTime, rank_column
from ss4rec.evaluation.lists import ItemFacts
from ss4rec.io.atomic import new_folder, write_json
from ss4rec.io.untrusted import read_json
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import ITEMS_FILE, RunFolder

FOLDER, TARGETS, RANKS, RESULT = "evaluation", "targets.parquet", "ranks.parquet", "result.json"
MODEL = "model"
"""Name of the trained model among scorers."""
USER_PREFIX = "user."
"""Prefix of columns of `targets.parquet` that say something about the user."""
_AGAIN = "run `ss4rec evaluate` again"


class EvaluationRecord(BaseModel):
    """The content of an evaluation's `result.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    split: Split
    """Which events were ranked."""
    protocol: Protocol
    """By which protocol."""
    data_name: str
    """Name of the prepared folder."""
    data_sha256: str
    """Checksum of its manifest."""
    num_items: int
    """Items that were ranked."""
    seconds: float
    """Time that ranking by the model and by all baselines took."""
    results: dict[str, EvalResult]
    """Metrics by scorer; `model` is the trained one."""


@dataclass(frozen=True)
class SavedEvaluation:
    """An evaluation that was read back; tables are read when they are asked for."""

    run: Path
    """The run folder."""
    path: Path
    """The evaluation's own folder."""
    record: EvaluationRecord

    @cached_property
    def targets(self) -> pa.Table:
        """Return `targets.parquet`."""
        return _read(self.path / TARGETS)

    @cached_property
    def ranks(self) -> pa.Table:
        """Return `ranks.parquet`."""
        return _read(self.path / RANKS)

    @cached_property
    def items(self) -> pa.Table:
        """Return the run's vocabulary, item 1 first."""
        return _read(self.run / ITEMS_FILE)

    @property
    def setting(self) -> tuple[Seen, TargetTime]:
        """The protocol's own setting."""
        return self.record.protocol.seen, self.record.protocol.target_time

    def ranks_of(
        self, scorer: str = MODEL, setting: tuple[Seen, TargetTime] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the rank of every target, in the order of `targets`; infinite for an item that never trained."""
        column = self.ranks[f"{scorer}/{rank_column(*(setting or self.setting))}"]
        return np.array(column.to_numpy(), np.float64)

    @property
    def scorers(self) -> list[str]:
        """Names of the scorers, the model first."""
        names = (name.partition("/")[0] for name in self.ranks.column_names if "/" in name)
        return list(dict.fromkeys(names))

    @property
    def results(self) -> dict[str, EvalResult]:
        """Metrics by scorer, the model first."""
        return {name: self.record.results[name] for name in self.scorers}


def save(
    run: Path,
    record: EvaluationRecord,
    ranks: dict[str, pa.Table],
    item_facts: ItemFacts,
    profiles: dict[str, list[str | None]],
) -> Path:
    """Write an evaluation into its run folder, whole or not at all, in place of an older one; return its folder.

    Args:
        run: the run folder.
        record: what `result.json` says.
        ranks: tables with lists by scorer, all in one order.
        item_facts: training events of items.
        profiles: what is known about users, by name: a value per user.
    """
    path = run / FOLDER / _name(RunFolder.open(run).config().protocol, record)
    with new_folder(path) as draft:
        pq.write_table(_targets(ranks[MODEL], item_facts, profiles), draft / TARGETS, compression="zstd")
        pq.write_table(_ranks(ranks), draft / RANKS, compression="zstd")
        write_json(draft / RESULT, record.model_dump(mode="json"))
    return path


def saved_evaluations(run: Path) -> list[str]:
    """Return the names of a run's evaluations, `test` first."""
    found = [path.parent.name for path in (run / FOLDER).glob(f"*/{RESULT}") if path.parent.name[0] != "."]
    return sorted(found, key=lambda name: (not name.startswith("test"), name))


def load_evaluation(run: Path, name: str = "test") -> SavedEvaluation:
    """Open a run's evaluation.

    Raises:
        DataError: if there is none, or it is damaged.
    """
    RunFolder.open(run)
    path = run / FOLDER / name
    if not (path / RESULT).is_file():
        there = saved_evaluations(run)
        instead = (
            f"it has {', '.join(there)}" if there else "it was evaluated by an older version or not at all"
        )
        raise DataError(
            f"run {run.name} has no evaluation {name!r} with ranks ({instead}); make it with "
            f"`ss4rec evaluate --run {run.name} --data DATA`"
        )
    try:
        record = EvaluationRecord.model_validate(read_json(path / RESULT))
    except (OSError, ValueError, ValidationError) as error:
        raise DataError(f"{path / RESULT} cannot be read ({error}); {_AGAIN}") from None
    return SavedEvaluation(run, path, record)


def _name(own: Protocol, record: EvaluationRecord) -> str:
    if record.protocol == own:
        return record.split
    return f"{record.split}-{re.sub('[^A-Za-z0-9._-]+', '-', record.protocol.name)}"


def _targets(ranks: pa.Table, item_facts: ItemFacts, profiles: dict[str, list[str | None]]) -> pa.Table:
    """Return what is known of each ranked event, whoever ranks it."""
    small = {name: pa.int32() for name in ("user", "history", "target", "unseen")}
    columns = {
        name: ranks[name].cast(small.get(name, ranks.schema.field(name).type))
        for name in ("user", "history", "target", "target_time", "last_time", "weight", "repeat", "unseen")
    }
    columns["target_events"] = pa.array(item_facts.events_V.numpy()[ranks["target"].to_numpy()])
    users = ranks["user"]
    for name, values in profiles.items():
        columns[f"{USER_PREFIX}{name}"] = (
            pa.array(values, pa.string()).take(users.combine_chunks()).dictionary_encode()
        )
    return pa.table(columns)


def _ranks(ranks: dict[str, pa.Table]) -> pa.Table:
    """Return all scorers' ranks side by side; float32 holds every half rank below eight million."""
    columns = {
        f"{name}/{rank_column(*setting)}": table[rank_column(*setting)].cast(pa.float32())
        for name, table in ranks.items()
        for setting in SETTINGS
    }
    return pa.table(columns | {name: ranks[MODEL][name] for name in ("list", "recent")})


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read ({error}); {_AGAIN}") from None
