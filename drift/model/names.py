"""Names of what ranks and of the window before the cut. Free of torch, which a report without a model spares."""

from __future__ import annotations

K = 10
"""Items of a recommended list."""
MODEL, SHUFFLED, FROZEN, ROLLING, FOLLOW = "model", "shuffled", "pop_frozen", "pop_rolling", "follow"
RANKINGS = (MODEL, SHUFFLED, FROZEN, ROLLING, FOLLOW)
"""The model; the model with each history in random order; popularity at the cut; popularity before the window; what
followed the last item most often in the past."""
BEFORE_CUT = -1
"""Number of the window of held-out events before the cut."""
