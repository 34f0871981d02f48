"""From ratings to a drift report in one command: stages that call the verbs; `ss4rec demo --like ml-32m`.

    STORAGE/ml-32m/pipeline.jsonl   when each stage began and ended
                   prepared/  split/  run/  lists/  drift/

A stage that is done is kept, so the same command goes on where it was killed; each verb goes on within its stage as it
does alone. One Ray serves all stages.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ss4rec.errors import SS4RecError, UsageError
from ss4rec.io.journal import Journal, exclusive

JOURNAL_FILE, LOCK_FILE = "pipeline.jsonl", ".pipeline.lock"
CUTOFF = "2018-12-31"
"""Last day of the past: 85 % of the generated users begin before it, and almost five years come after."""
TRAINING = ("train.epochs=10", "train.patience=0", "train.validate_every=2", "evaluation.at_end=false")
"""Ten passes over the past, whatever validation says of them; the ranking is a stage of its own."""


@dataclass(frozen=True)
class Settings:
    """What is asked for; a journal of other settings is refused."""

    like: str
    """A name of `ss4rec.data.synth.settings.LIKE`."""
    source: str | None = None
    """An archive or table of ratings; None: ratings are generated."""
    users: int | None = None
    """Users and items to generate; None: as many as `like` has."""
    items: int | None = None
    cutoff: str = CUTOFF
    k: int = 100
    """Items of a user's list."""
    preset: str = "ml_20m_best"
    train: tuple[str, ...] = ()
    """More words for `ss4rec train`."""


@dataclass(frozen=True)
class Stage:
    """A verb with its arguments."""

    name: str
    words: tuple[str, ...]
    """As one types them behind `ss4rec`."""
    makes: Path | None = None
    """Is there when the stage is done, and not before; None: only the journal says so."""

    def __str__(self) -> str:
        return shlex.join(["ss4rec", *self.words])


@dataclass(frozen=True)
class Done:
    """What a stage took."""

    name: str
    seconds: float | None
    """Of the attempt that ended it; None if it was killed between its end and the journal's line."""
    attempts: int
    """How often it was begun."""


def stages(asked: Settings, data: Path, folder: Path, gpus: int, cpus: int) -> list[Stage]:
    """Return the stages in their order.

    Args:
        asked: the settings.
        data: folder for generated ratings.
        folder: everything else.
        gpus: of the cluster; with one, ranking takes it.
        cpus: of the cluster.
    """
    run, split = folder / "run", folder / "split"
    source = asked.source or str(data)
    sizes = [f"--{name}={size}" for name, size in (("users", asked.users), ("items", asked.items)) if size]
    gpu = ["--gpu"] if gpus else []
    rankers = str(gpus or max(1, cpus // 2))
    changes = [word for text in TRAINING for word in ("--set", text)]
    made = [
        ("generate", ["data", "synth", "--out", data, "--like", asked.like, *sizes, "--format", "csv"],
         data / "truth.json"),
        ("prepare", ["data", "prepare", "--source", source, "--out", folder / "prepared", "--k-core", "0",
                     "--engine", "ray"], folder / "prepared/manifest.json"),
        ("cut", ["data", "split", "--data", folder / "prepared", "--cutoff", asked.cutoff, "--k-core", "5",
                 "--out", split], split / "split.json"),
        ("train", ["train", "--data", split / "past", "--preset", asked.preset, *changes, *asked.train,
                   "--storage", folder, "--name", run.name], run / "result.json"),
        ("rank", ["evaluate", "--run", run, "--data", split / "past", "--workers", rankers, *gpu], None),
        ("recommend", ["recommend", "--run", run, "--data", split / "timeline", "--k", asked.k, "--out",
                       folder / "lists", "--workers", rankers, *gpu], folder / "lists/manifest.json"),
        ("drift", ["drift", "--data", split, "--run", run, "--out", folder / "drift", "--set",
                   f"workers={max(2, cpus // 2)}", "--set", "fail_on=never", "--set",
                   "wandb=disabled"], folder / "drift/report.json"),
    ]  # fmt: skip
    found = [Stage(name, tuple(map(str, words)), makes) for name, words, makes in made]
    return found[1:] if asked.source else found


def run_pipeline(
    asked: Settings,
    data: Path,
    folder: Path,
    *,
    around: Callable[[str], AbstractContextManager[Any]] = lambda name: nullcontext(),
    say: Callable[[str], None] = click.echo,
) -> list[Done]:
    """Run what is not done yet and return what each stage took.

    Args:
        asked: the settings.
        data: folder for generated ratings.
        folder: everything else, and the journal.
        around: is entered around each stage that runs, with its name.
        say: gets a line before and after each stage.

    Raises:
        UsageError: if `folder` holds a pipeline of other settings.
        LeaseError: if another process works on it.
        SS4RecError: what a verb raises.
    """
    import ray

    from ss4rec.cluster.connect import cluster

    journal = Journal(folder / JOURNAL_FILE)
    with exclusive(folder / LOCK_FILE, str(folder), wait=False), cluster("local"):
        _settle(journal, asked, data)
        machine = ray.cluster_resources()
        gpus, cpus = (int(machine.get(name, 0)) for name in ("GPU", "CPU"))
        wanted = stages(asked, data, folder, gpus, cpus)
        for number, stage in enumerate(wanted, start=1):
            _run_stage(journal, stage, f"stage {number} of {len(wanted)}, {stage.name}", around, say)
    return done_stages(journal)


def _settle(journal: Journal, asked: Settings, data: Path) -> None:
    """Write the settings into a new journal, or compare them with its own."""
    mine = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(asked).items()}
    mine["data"] = str(data)
    rows = journal.rows()
    if not rows:
        journal.append({"settings": mine})
        return
    before = rows[0]["settings"]
    if other := [name for name in mine if before.get(name) != mine[name]]:
        told = ", ".join(f"{name} {before.get(name)!r}, now {mine[name]!r}" for name in other)
        raise UsageError(
            f"{journal.path.parent} was begun with other settings ({told}); repeat them, or choose another --storage"
        )


def _run_stage(
    journal: Journal,
    stage: Stage,
    title: str,
    around: Callable[[str], AbstractContextManager[Any]],
    say: Callable[[str], None],
) -> None:
    """Run a stage that is not done, and write it down."""
    before = next((done for done in done_stages(journal) if done.name == stage.name), None)
    if before and (stage.makes is None or stage.makes.exists()):
        say(f"{title}: done before")
        return
    if stage.makes is not None and stage.makes.exists():
        journal.append({"done": stage.name, "seconds": None})
        say(f"{title}: {stage.makes} is there")
        return
    say(f"{title}: {stage}")
    journal.append({"began": stage.name})
    with around(stage.name):
        began = time.monotonic()
        code = call_verb(stage.words)
        seconds = time.monotonic() - began
    if code:
        raise SS4RecError(f"{stage} ended with {code}; the same command tries it again")
    journal.append({"done": stage.name, "seconds": round(seconds, 3)})
    say(f"{title}: {seconds:.1f} s")


def call_verb(words: Sequence[str]) -> int:
    """Run a verb in this process, as typed behind `ss4rec`, and return its exit code; raises what it raises."""
    from ss4rec.cli import main_group

    with main_group.make_context("ss4rec", list(words)) as context:
        answer = main_group.invoke(context)
    return answer if isinstance(answer, int) else 0


def done_stages(journal: Journal) -> list[Done]:
    """Return the stages that are done, in their order."""
    rows = journal.rows()
    begun = [row["began"] for row in rows if "began" in row]
    last = {row["done"]: row["seconds"] for row in rows if "done" in row}
    return [Done(name, seconds, begun.count(name)) for name, seconds in last.items()]
