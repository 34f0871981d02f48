"""The state of a user: what a model remembers of a history, at a constant cost for each new event.

    states = StateModel(ss4rec.load("runs/ml-1m"))
    state = states.encode(History(items=[1193, 661], times=[978300760, 978302109]))
    state = state.update(Event(item=914, time=978301968))
    states.recommend(state, at=978303000)

Equal to encoding the whole history, however long it is; `Recommender` looks at the last `data.max_len` events only.
"""

from __future__ import annotations

from ss4rec.states.files import read_states, write_states
from ss4rec.states.state import Event, State
from ss4rec.states.state_model import StateModel

__all__ = ["Event", "State", "StateModel", "read_states", "write_states"]
