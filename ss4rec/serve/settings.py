"""How a server is set up: the options of `ss4rec serve`, and `args` of a RayService."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ss4rec.config import Section
from ss4rec.errors import UsageError
from ss4rec.serve.guards import Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServeSettings(Section):
    """What is served, from which store, to whom."""

    run: str = ""
    """Run folder; a link to one is followed when it moves."""
    registry: str = ""
    """Model of a registry (`registry/NAME`), whose champion is served; it is followed when it changes."""
    store: str = "events.db"
    """Where events lie: a file (SQLite, one machine) or `postgresql://USER@HOST/DATABASE`."""
    replicas: PositiveInt = 1
    """Processes that answer; each keeps the states of its own users."""
    cpus_per_replica: NonNegativeFloat = 1.0
    """CPUs that Ray reserves for each."""
    precision: Literal["full", "bf16", "int8"] = "full"
    """How states are kept between events: `bf16` and `int8` take a half and a quarter of the memory."""
    cache_users: PositiveInt = 20_000
    """States that a replica keeps."""
    keep_states: bool = True
    """Keep states on disk too, beside a store in SQLite: a replica that starts anew takes them up. At most as many as
    `cache_users` for each replica."""
    tokens: str = ""
    """File with one token a line, any of which lets a request in; empty: every request is let in."""
    requests_per_s: NonNegativeFloat = 0.0
    """Requests a second of one token (or address) at one replica; 0: no limit."""
    body_kib: PositiveInt = 1024
    """Largest body of a request."""
    look_every_s: PositiveFloat = Field(default=5.0, le=3600.0)
    """Seconds between two looks whether another model is to be served."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if bool(self.run) == bool(self.registry):
            raise ValueError("name a run or a model of a registry, one of the two")
        return self

    def limits(self) -> Limits:
        """Return what clients may do.

        Raises:
            UsageError: if the tokens cannot be read.
        """
        tokens: tuple[str, ...] = ()
        if self.tokens:
            try:
                lines = Path(self.tokens).read_text().split("\n")
            except OSError as error:
                raise UsageError(f"the tokens cannot be read: {error}") from None
            tokens = tuple(line.strip() for line in lines if line.strip())
            if not tokens:
                raise UsageError(f"{self.tokens} holds no token; write one a line, or leave --tokens out")
        return Limits(tokens, 1024 * self.body_kib, self.requests_per_s)


def require_tokens(settings: ServeSettings, host: str) -> None:
    """Refuse to listen to other machines without tokens."""
    if host not in LOOPBACK and not settings.tokens:
        raise UsageError(
            f"--host {host} lets other machines ask, and there are no tokens; give --tokens FILE, or --host 127.0.0.1"
        )
