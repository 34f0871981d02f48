"""The training loop (pure torch), and its host on Ray Train (`ray_train`).

The package can be called: `ss4rec.train(data)` is `ss4rec.api.train`. A module of this name hides a function of that
name in `ss4rec`, since importing it sets that attribute.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        """Train a model; see `ss4rec.api.train`."""
        from ss4rec.api import train

        return train(*args, **options)

    @property
    def __signature__(self) -> Any:
        """For `inspect.signature` and help in notebooks."""
        import inspect

        from ss4rec.api import train

        return inspect.signature(train)


sys.modules[__name__].__class__ = _CallableModule
