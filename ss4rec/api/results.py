"""What `train` and `evaluate` return: a run and its metrics as objects and tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ss4rec.config import RunConfig
from ss4rec.data.batches.windows import Split
from ss4rec.data.moments import Moment
from ss4rec.errors import DataError
from ss4rec.evaluation.evaluator import EvalResult
from ss4rec.io.untrusted import read_json
from ss4rec.recommender import ItemId, Recommendation, Recommender
from ss4rec.recommender import load as load_recommender
from ss4rec.runs.folder import RESULT_FILE, RunFolder
from ss4rec.runs.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from ss4rec.api.data import AnyFolder
    from ss4rec.api.lists import Recommendations

_TableT = TypeVar("_TableT")
MODEL = "model"
"""Name of the trained model among the results of an evaluation; the others are baselines."""


@dataclass(frozen=True)
class Evaluation(Mapping[str, EvalResult]):
    """Metrics of a run and of baselines on the same users, by name; the run's are at `model`."""

    results: Mapping[str, EvalResult]

    @property
    def model(self) -> EvalResult:
        """Metrics of the run."""
        return self.results[MODEL]

    def metric(self, name: str = "NDCG@10", *, seen: str = "kept", target_time: str = "known") -> float:
        """Return one metric of the run.

        Args:
            name: as in `HR@10`, `NDCG@10`, `MRR@10`.
            seen: `kept` or `excluded`: whether items that a user already has are ranked.
            target_time: `known` or `unknown`: whether the model is told when the next event happens.

        Raises:
            KeyError: if there is no such metric.
        """
        return self.model.setting(seen, target_time).metrics[name]  # type: ignore[arg-type]  # StopIteration else

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per scorer, setting and metric.

        The columns are `scorer`, `seen`, `target_time`, `metric`, `value`, and `low` and `high` of the 95 % interval
        over users, where there is one.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "scorer": scorer,
                "seen": setting.seen,
                "target_time": setting.target_time,
                "metric": metric,
                "value": value,
                "low": setting.intervals.get(metric, (None, None))[0],
                "high": setting.intervals.get(metric, (None, None))[1],
            }
            for scorer, result in self.results.items()
            for setting in result.settings
            for metric, value in setting.metrics.items()
        ).astype({"low": float, "high": float})

    def __getitem__(self, scorer: str) -> EvalResult:
        return self.results[scorer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Evaluation:
        """Build from plain JSON values, as `result.json` holds them."""
        return cls({name: EvalResult.model_validate(result) for name, result in raw.items()})


class Run:
    """A run folder: what `train` left, or `Run(path)` of one that is there.

    Args:
        path: the run folder.

    Raises:
        DataError: if it is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = RunFolder.open(Path(path).resolve()).path
        """The run folder, absolute."""

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """Name of the run: its folder's."""
        return self.path.name

    @property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return RunFolder(self.path).config()

    @property
    def record(self) -> RunRecord:
        """What ran: versions, backends, device, data."""
        return RunFolder(self.path).record()

    @property
    def metrics(self) -> pd.DataFrame:
        """A row per epoch: `epoch`, `train_loss`, `events_per_s`, and `valid_...` where it was validated."""
        import pandas as pd

        rows = [row for row in RunFolder(self.path).metrics() if row.get("kind") == "epoch"]
        return pd.DataFrame(rows).drop(columns="kind", errors="ignore")

    @property
    def result(self) -> dict[str, Any]:
        """The content of `result.json`: how training ended, and metrics on the test items.

        Raises:
            DataError: if training has not ended yet.
        """
        try:
            found: dict[str, Any] = read_json(self.path / RESULT_FILE)
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(
                f"{self.path} has no {RESULT_FILE} ({error}); train it to its end first"
            ) from None
        return found

    @property
    def test(self) -> Evaluation:
        """Metrics on the test items, taken when training ended.

        Raises:
            DataError: if training has not ended yet, or was told to leave the test out.
        """
        if "test" not in self.result:
            raise DataError(f"{self.path} was not tested (evaluation.at_end is false); call evaluate()")
        return Evaluation.parse(self.result["test"])

    @cached_property
    def recommender(self) -> Recommender:
        """The best checkpoint on the CPU; loaded once."""
        return self.load()

    def load(self, device: str = "cpu") -> Recommender:
        """Load the best checkpoint; see `ss4rec.load`."""
        return load_recommender(self.path, device)

    def evaluate(self, data: AnyFolder, *, split: Split = "test", **options: Any) -> Evaluation:
        """Rank all items for every user; see `ss4rec.evaluate`."""
        from ss4rec.api import evaluate

        return evaluate(self, data, split=split, **options)

    def recommend(self, events: Any, k: int = 10, *, at: Moment | None = None, **options: Any) -> Any:
        """Return the `k` best items for each user of a table of events; see `ss4rec.recommend`."""
        from ss4rec.api import recommend

        return recommend(self, events, k, at=at, **options)

    def recommend_all(self, data: AnyFolder, out: str | os.PathLike[str], **options: Any) -> Recommendations:
        """Write the best items of every user into a folder; see `ss4rec.recommend_all`."""
        from ss4rec.api import recommend_all

        return recommend_all(self, data, out, **options)

    def similar(self, item: ItemId, k: int = 10) -> list[Recommendation]:
        """Return the `k` items that the model holds to be most like an item; the score is the cosine of item rows."""
        return self.recommender.similar(item, k)

    def score(self, events: object, pairs: _TableT, **options: Any) -> _TableT:
        """Return a table of pairs of user and item with the model's score of each; see `ss4rec.score`."""
        from ss4rec.api import score

        return score(self, events, pairs, **options)
