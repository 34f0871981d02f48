"""Train, tune and watch SS4Rec, a state-space sequential recommender, on Ray.

The functions are described in `ss4rec.api`. They are imported when they are asked for, so `import ss4rec` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ss4rec.api import DriftResult as DriftResult
    from ss4rec.api import Evaluation as Evaluation
    from ss4rec.api import Recommendations as Recommendations
    from ss4rec.api import Run as Run
    from ss4rec.api import Sweep as Sweep
    from ss4rec.api import TimeSplit as TimeSplit
    from ss4rec.api import audit as audit
    from ss4rec.api import drift as drift
    from ss4rec.api import evaluate as evaluate
    from ss4rec.api import prepare as prepare
    from ss4rec.api import recommend as recommend
    from ss4rec.api import recommend_all as recommend_all
    from ss4rec.api import score as score
    from ss4rec.api import split as split
    from ss4rec.api import train as train
    from ss4rec.api import tune as tune
    from ss4rec.config import RunConfig as RunConfig
    from ss4rec.config import override as override
    from ss4rec.data.prepared.folder import PreparedFolder as PreparedFolder
    from ss4rec.evaluation.evaluator import EvalResult as EvalResult
    from ss4rec.presets import preset as preset
    from ss4rec.recommender import History as History
    from ss4rec.recommender import Recommendation as Recommendation
    from ss4rec.recommender import Recommender as Recommender
    from ss4rec.recommender import load as load

    __version__: str

_MODULES = {
    "ss4rec.api": (
        "DriftResult", "Evaluation", "Recommendations", "Run", "Sweep", "TimeSplit", "audit", "drift", "evaluate",
        "prepare", "recommend", "recommend_all", "score", "split", "tune",
    ),
    "ss4rec.config": ("RunConfig", "override"),
    "ss4rec.data.prepared.folder": ("PreparedFolder",),
    "ss4rec.evaluation.evaluator": ("EvalResult",),
    "ss4rec.presets": ("preset",),
    "ss4rec.recommender": ("History", "Recommendation", "Recommender", "load"),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DriftResult", "EvalResult", "Evaluation", "History", "PreparedFolder", "Recommendation", "Recommendations",
    "Recommender", "Run", "RunConfig", "Sweep", "TimeSplit", "__version__", "audit", "drift", "evaluate", "load",
    "override", "prepare", "preset", "recommend", "recommend_all", "score", "split", "train", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import ss4rec` alone needs neither torch nor Ray."""
    if name == "__version__":
        from importlib.metadata import version

        return version("ss4rec")
    if name == "train":  # the package of that name can be called: see there
        return importlib.import_module("ss4rec.train")
    if name in _HOMES:
        found = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'ss4rec' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for completion in a notebook."""
    return sorted(__all__)
