"""The preset `auto` for one folder and one machine: from options to a configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ss4rec.auto.choose import Decision, Machine, choose
from ss4rec.auto.explain import headline
from ss4rec.auto.look import Facts, look
from ss4rec.config import RunConfig, override
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.io.paths import AnyPath
from ss4rec.presets import AUTO
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol


@dataclass(frozen=True)
class Auto:
    """The preset `auto` before it has seen data.

    Args:
        protocol: how data are divided.
        changes: the user's own values, by dotted field; they are never changed.
        minutes: time for the whole run; None: no limit.
    """

    protocol: Protocol
    changes: Mapping[str, Any]
    minutes: float | None = None
    preset: ClassVar[str] = AUTO

    def __call__(
        self, data: PreparedFolder | AnyPath, gpu: bool, say: Callable[[str], None] = lambda line: None
    ) -> RunConfig:
        """Look at a folder and return its configuration; say in a few lines what was chosen."""
        config, _, facts, machine = self.decide(data, gpu)
        for line in headline(facts, machine, config):
            say(line)
        return config

    def decide(
        self, data: PreparedFolder | AnyPath, gpu: bool
    ) -> tuple[RunConfig, list[Decision], Facts, Machine]:
        """Look at a folder and return its configuration and how it came about.

        Raises:
            ConfigError: if the user's own values are refused.
            DataError: if the folder cannot be read, or not be divided as the protocol says.
        """
        data = PreparedFolder.open(data)
        facts = look(data, make_plan(self.protocol, data))
        machine = Machine(gpu, len(os.sched_getaffinity(0)), _card_gib() if gpu else None)
        told = self.changes.get("data.target_time")
        config, decisions = choose(facts, machine, self.protocol, self.minutes, told)
        return override(config, self.changes), decisions, facts, machine


def _card_gib() -> float | None:
    """Return the memory of this machine's smallest card; None if it has none."""
    import torch

    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return min((card.total_memory / 2**30 for card in cards), default=None)
