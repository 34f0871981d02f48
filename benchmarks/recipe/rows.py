"""Rows of the recipe benchmark: data, protocol, what is best known, and the goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ss4rec.protocol.named import named
from ss4rec.protocol.settings import Protocol


@dataclass(frozen=True)
class Measure:
    """One line of the table: what is ranked after a training."""

    name: str
    """As in records: `recipe.NAME.hr10`."""
    goal_hr: float | None
    goal_ndcg: float | None
    published: str
    """Best published HR@10 / NDCG@10, or what it is compared with."""
    targets: str | None = None
    """Which events after a cut are ranked (`protocol.targets`)."""
    against_peers: bool = False
    """Whether the figure is NDCG@10 over that of the best peer of the same run."""


@dataclass(frozen=True)
class Training:
    """One training of the table."""

    name: str
    data: str
    """Name of the prepared folder, in the folder of all."""
    changes: Mapping[str, Any]
    """Fields of the protocol that differ from leave-one-out's, or from those of `start`."""
    measures: tuple[Measure, ...]
    start: str = "leave-one-out"
    peers: tuple[str, ...] = field(default=())
    """Peers that are trained beside it, by name."""

    @property
    def protocol(self) -> Protocol:
        """How the folder is divided."""
        label = self.start + "".join(f", {name} {value}" for name, value in self.changes.items())
        return Protocol.model_validate(
            named(self.start).model_dump()
            | dict(self.changes)
            | {"name": label if self.changes else self.start}
        )


UNSEEN = {"seen": "excluded", "target_time": "unknown"}
"""Seen items excluded, no target time."""
KEPT = {"target_time": "unknown"}
"""Seen items kept, no target time."""
TRAININGS = (
    Training("beauty", "beauty", UNSEEN, (Measure("beauty", 0.106, 0.065, ".1008 / .0611 BSARec"),), peers=("esasrec",)),
    Training("sports", "sports", UNSEEN, (Measure("sports", 0.064, 0.036, ".0612 / .0323 BSARec, eSASRec"),)),
    Training("yelp", "yelp", UNSEEN, (Measure("yelp", 0.070, 0.047, ".0355 / .0174 SASRec + RepPad"),), peers=("esasrec",)),
    Training(
        "ml1m_no_t", "ml-1m", UNSEEN, (Measure("ml1m_no_t", 0.405, 0.250, ".3159 / .1857 SASRec"),), peers=("esasrec",)
    ),
    Training("ml1m_t_kept", "ml-1m", {}, (Measure("ml1m_t_kept", 0.460, 0.290, ".3523 / .2153 SS4Rec variant"),)),
    Training("ml1m_strict_no_t", "ml-1m-hash", UNSEEN, (Measure("ml1m_strict_no_t", 0.380, 0.230, "none"),)),
    Training(
        "gts",
        "ml-1m",
        {"validation_targets": "successive"},
        (
            Measure("gts_last", 0.205, 0.125, ".1687 / .0948 SASRec", "last"),
            Measure("gts_successive", 0.280, 0.163, ".2082 / .1142 SASRec", "successive"),
            Measure("gts_first", 0.085, 0.045, ".0703 / .0374 BERT4Rec", "first"),
        ),
        start="time-to-split",
    ),
    Training(
        "union", "union", {"seen": "excluded"}, (Measure("union", None, 0.105, "Markov chain .0663"),), peers=("sasrec",)
    ),
    Training(
        "retail", "retail", KEPT, (Measure("retail_ratio", None, 1.15, "habits, SASRec", against_peers=True),),
        peers=("sasrec", "esasrec"),
    ),
    Training(
        "journey", "journey", KEPT, (Measure("journey_ratio", None, 1.15, "habits, SASRec", against_peers=True),),
        peers=("sasrec",),
    ),
    Training(
        "gowalla", "gowalla", KEPT, (Measure("gowalla_ratio", None, 1.15, "habits, SASRec", against_peers=True),),
        peers=("sasrec",),
    ),
    Training(
        "globo",
        "globo",
        {
            "kind": "global_time",
            "cut": "2017-10-15",
            "targets": "last",
            "validation": "last_train_item",
            **UNSEEN,
        },
        (Measure("globo_ratio", None, 1.3, "most popular of the last hours, SASRec", against_peers=True),),
        peers=("sasrec",),
    ),
)  # fmt: skip
"""The table, in its order."""


def training(name: str) -> Training:
    """Return a training by name.

    Raises:
        KeyError: if there is none.
    """
    return {one.name: one for one in TRAININGS}[name]
