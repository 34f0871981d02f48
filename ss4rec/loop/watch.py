"""One round of the loop: look, decide, retrain, compare, promote, tell. The same call on the same data does nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift.report.contents import Report
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import UsageError
from ss4rec.io.journal import exclusive
from ss4rec.loop import steps
from ss4rec.loop.decide import Facts, decide
from ss4rec.loop.journal import LoopJournal
from ss4rec.loop.page import write_loop_page
from ss4rec.loop.settings import EXIT_KEPT, EXIT_LOOK, EXIT_WAIT, WatchConfig
from ss4rec.loop.steps import Place
from ss4rec.loop.tell import (
    call_webhook,
    gauges,
    message,
    tell_wandb,
    wants_webhook,
    webhook_address,
    write_gauges,
)
from ss4rec.runs.record import data_fingerprint
from ss4rec.train.status import say

CYCLES, PAGE, GAUGES, LOCK = "cycles", "index.html", "metrics.prom", ".lock"
LARGE = (steps.LOOKED, steps.TRAINING)
"""Folders of a cycle that are removed when the next one begins: copies of the data."""


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    from ss4rec.cluster.connect import cluster

    with cluster(address):
        yield


@dataclass(frozen=True)
class Work:
    """The steps that cost something, so that tests can put others in their place."""

    look: Callable[[Place, dict[str, Any] | None], dict[str, Any]] = steps.look
    train: Callable[..., dict[str, Any]] = steps.train
    compare: Callable[..., dict[str, Any]] = steps.compare
    connect: Callable[[str | None], AbstractContextManager[None]] = _ray
    """Connects to Ray for all steps of a round together."""


@dataclass(frozen=True)
class Round:
    """What one call did."""

    action: str
    reason: str
    outcome: str
    """What became of the challenger; empty without one."""
    promoted: bool
    champion: int | None
    cycle: str
    page: str
    repeated: bool
    """Whether these data had been looked at already, so that nothing was done."""
    exit_code: int


def run_watch(
    config: WatchConfig, *, address: str | None = None, clear: str = "", work: Work | None = None
) -> Round:
    """Run one round of the loop; a killed one goes on.

    Args:
        config: `watch.toml`.
        address: Ray cluster, as in `ss4rec.cluster.connect.cluster`.
        clear: why the faults of the pipeline that the last look found are none, or mended; empty: nobody says so.
        work: the steps; None: the real ones.

    Raises:
        LeaseError: if another process runs this loop.
        SS4RecError: as the steps.
    """
    folder = Path(config.work)
    webhook_address(config.tell)
    with exclusive(folder / LOCK, f"the loop in {folder}", wait=False):
        journal = LoopJournal(folder)
        if clear:
            _clear(journal, clear)
        key = cycle_key(config, journal)
        done = journal.cycle(key)
        if "tell" in done:
            if str(done["tell"].get("webhook", "")).startswith("failed"):
                sent = message(Path(config.model).name, done)
                done["tell"] = journal.write(
                    key, "tell", done["tell"] | {"webhook": call_webhook(config.tell, sent)}
                )
            return _round(config, done, repeated=True)
        _remove_large(folder, key)
        place, work = Place(config, folder / CYCLES / key, address), work or Work()
        with work.connect(address):
            return _go_on(place, journal, key, work)


def cycle_key(config: WatchConfig, journal: LoopJournal) -> str:
    """Return the name of the cycle of these data: it hangs on them, on what decides, and on how often faults were
    cleared.
    """
    manifest = PreparedFolder.open(Path(config.data)).manifest
    decisive = config.model_dump(mode="json", exclude={"tell", "work", "data"})
    clears = sum(row["step"] == "clear" for row in journal.rows())
    text = json.dumps([data_fingerprint(manifest), decisive, clears], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _clear(journal: LoopJournal, why: str) -> None:
    """Write down that somebody has looked at the faults that the last look found.

    Raises:
        UsageError: if the last decision was not to look.
    """
    look, decided = journal.last("look"), journal.last("decide")
    if look is None or decided is None or decided["action"] != "look":
        raise UsageError("--clear: the loop has found no fault that somebody could clear")
    cleared = journal.last("clear")
    if cleared is None or cleared["window"] != look["windows"][-1]:
        journal.write(look["cycle"], "clear", {"window": look["windows"][-1], "reason": why})


def _go_on(place: Place, journal: LoopJournal, key: str, work: Work) -> Round:
    """Do the steps of a cycle that are not done yet."""
    done = journal.cycle(key)

    def step(name: Any, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        if name not in done:
            done[name] = journal.write(key, name, make())
        return done[name]

    looked = step("look", lambda: work.look(place, journal.last_finished_look(key)))
    decided = step("decide", lambda: _decide(place, journal, key, looked))
    say(f"watch: {decided['action']}: {decided['reason']}")
    if decided["action"] == "retrain":
        trained = step("train", lambda: work.train(place, looked, decided["how"]))
        run = Path(trained["run"])
        judged = None
        if looked["champion"] is not None:
            judged = step("compare", lambda: work.compare(place, looked, run))
        moved = step("promote", lambda: steps.promote(place, looked, run, judged))
        say(f"watch: version {moved['version']} serves: {moved['reason']}")
    step("tell", lambda: _tell(place, journal, done))
    return _round(place.config, done, repeated=False)


def _decide(place: Place, journal: LoopJournal, key: str, looked: dict[str, Any]) -> dict[str, Any]:
    report = None if looked["report"] is None else Facts.of(Report.load(Path(looked["report"])))
    decision = decide(report, journal.state(key), place.config.decide)
    found: dict[str, Any] = {"action": decision.action, "reason": decision.reason, "how": decision.how}
    return found | {"because": list(decision.because)}


def _tell(place: Place, journal: LoopJournal, done: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Write page and gauges, and tell whoever wants to know; returns what came of it."""
    config = place.config
    rows = journal.rows()
    write_gauges(_gauges_path(config), gauges(Path(config.model).name, rows, time.time()))
    write_loop_page(Path(config.work) / PAGE, config, rows)
    sent = message(Path(config.model).name, done)
    found: dict[str, Any] = {"page": str(Path(config.work) / PAGE)}
    if wants_webhook(config.tell, sent):
        found["webhook"] = call_webhook(config.tell, sent)
    if told := tell_wandb(config.tell, place.folder, sent):
        found["wandb"] = told
    for name in ("webhook", "wandb"):
        if str(found.get(name, "")).startswith("failed"):
            say(f"warning: {name} {found[name]}")
    return found


def _gauges_path(config: WatchConfig) -> Path:
    return Path(config.tell.prometheus) if config.tell.prometheus else Path(config.work) / GAUGES


def _remove_large(folder: Path, key: str) -> None:
    """Remove the copies of the data that finished cycles left, and drafts of a killed one."""
    for cycle in (folder / CYCLES).glob("*"):
        drafts = [path.name for path in cycle.glob(".*")]
        for name in drafts if cycle.name == key else (*LARGE, *drafts):
            shutil.rmtree(cycle / name, ignore_errors=True)


def _round(config: WatchConfig, done: Mapping[str, dict[str, Any]], *, repeated: bool) -> Round:
    """Sum up a finished round from the lines of its journal."""
    decided, moved = done["decide"], done.get("promote")
    promoted = bool(moved and moved["promoted"])
    code = {"look": EXIT_LOOK, "wait": EXIT_WAIT, "retrain": 0 if promoted else EXIT_KEPT}.get(
        decided["action"], 0
    )
    return Round(
        action=decided["action"],
        reason=decided["reason"],
        outcome=moved["reason"] if moved else "",
        promoted=promoted,
        champion=moved["version"] if moved else done["look"]["champion"],
        cycle=decided["cycle"],
        page=done["tell"]["page"],
        repeated=repeated,
        exit_code=0 if config.tell.exit_codes == "plain" else code,
    )
