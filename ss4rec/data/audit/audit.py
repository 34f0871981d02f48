"""The whole audit of a prepared folder, as one typed object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ss4rec.data.audit.facts import Facts
from ss4rec.data.audit.follows import Choice, choices, configuration
from ss4rec.data.audit.lights import COLOURS, Light, Tone, lights
from ss4rec.data.audit.measure import measure
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.protocol.settings import Protocol

USERS = 2_000
"""Users whom simple scorers rank."""


@dataclass(frozen=True)
class Audit:
    """What was found, what it means, and what follows."""

    facts: Facts
    lights: tuple[Light, ...]
    choices: tuple[Choice, ...]
    """How to prepare and which protocol."""
    configuration: tuple[str, ...]
    """What `--preset auto` makes of the data, in words."""
    fields: Mapping[str, Any]
    """Its fields."""

    def count(self, tone: Tone) -> int:
        """Return how many lights are `good` (green), `warn` (yellow) or `bad` (red)."""
        return sum(light.tone == tone for light in self.lights)

    @property
    def headline(self) -> str:
        """The lights in one line."""
        counts = ", ".join(f"{self.count(tone)} {colour}" for tone, colour in reversed(COLOURS.items()))
        return f"{self.facts.name}: {counts}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        found = asdict(self)
        return {"headline": self.headline, **found}

    def to_html(self) -> str:
        """Return the page: one file that loads nothing."""
        from ss4rec.data.audit.page import audit_page

        return audit_page(self)


def audit(
    data: PreparedFolder,
    protocol: Protocol | None = None,
    *,
    users: int = USERS,
    gpu: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Audit:
    """Look at a prepared folder and say what is wrong with it.

    A shard is in memory at a time, beside arrays of users, items and days; simple scorers take about 100 bytes for each
    of at most 5 million events, and a protocol with a cut in time 20 bytes for each event (as training does).

    Args:
        data: the folder.
        protocol: how it would be divided; None: leave-one-out.
        users: users that simple scorers rank, at most.
        gpu: whether the configuration is for a machine with a GPU.
        progress: is told what is being done.

    Raises:
        DataError: if a shard is missing or damaged, or the protocol does not fit the data.
    """
    protocol = protocol or Protocol()
    facts = measure(data, protocol, users, progress)
    found = lights(facts)
    lines, fields = configuration(data, protocol, gpu)
    return Audit(facts, tuple(found), tuple(choices(facts, found)), tuple(lines), fields)
