"""Train, tune and watch SS4Rec, a state-space sequential recommender, on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ss4rec.recommender import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import `load` when it is asked for: `import ss4rec` alone needs no torch."""
    if name == "load":
        from ss4rec.recommender import load

        return load
    raise AttributeError(f"module 'ss4rec' has no attribute {name!r}")
