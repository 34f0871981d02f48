"""Which run serves: a folder of versions with one pointer, `champion`, that moves in one step and can go back.

registry/NAME/versions/0001/    a run folder of its own: the files that serving, ranking and warm starts need
registry/NAME/champion          which version serves; replaced whole
registry/NAME/history.jsonl     what moved it, when and why; only ever added to

Whoever serves or recommends asks `champion(path)`, or `resolve(path)` where a run may be given as well.
"""

from __future__ import annotations

from ss4rec.registry.folder import ModelRegistry, Version, champion, is_model, models, resolve

__all__ = ["ModelRegistry", "Version", "champion", "is_model", "models", "resolve"]
