"""The split of Time to Split (RecSys 2025, arXiv 2507.16289) on ML-1M: rebuilt, checked, and every model ranked on it.

`python -m benchmarks.global_time --data ML1M --check` only checks the split; ML1M is ML-1M as `ss4rec data prepare` writes
it (--k-core 5 or 0, order of the file). The split is compared with the published counts, and event by event with the
published rules written down once more in pandas.

`python -m benchmarks.global_time --data ML1M --work W` trains the presets `auto` and `ml_1m_best` and, where they are
installed, SASRec and BERT4Rec of rectools and GRU4Rec of RecBole, each with ties by file and by hash, in this process and
on this machine's card; ranks them and all baselines on the five targets, with the target's time known and not; and times
the successive row with nothing beside it. `--run RUN` (several) ranks finished runs of `ss4rec train --protocol
time-to-split` instead of training presets.

Each part is kept in W, so the same command goes on where it stopped. Several processes may share W and a card, each with
`--only` for its parts (such as `sasrec-*` or `*-hash`); then the command without `--only` measures what is left and
writes `global-time-<YYYYMMDD>.json`. `--list` names the parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.global_time.rank import (
    LIBRARY,
    PEERS,
    line,
    rank_baselines,
    rank_peer,
    rank_run,
    time_successive,
    train,
)
from benchmarks.global_time.split import PUBLISHED, check_split
from benchmarks.record import headline, write_record
from ss4rec.errors import UsageError
from ss4rec.io.atomic import write_json
from ss4rec.protocol.named import named
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder

PUBLISHED_SASREC = {"HR@10": 0.1596, "NDCG@10": 0.0948}
"""Last target, validation by time; one standard deviation of HR@10 over 1,209 users is .0105."""
SUCCESSIVE_GOAL_S = 10.0
Rows = list[dict[str, Any]]


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Prepared ML-1M.")
@click.option(
    "--work", type=click.Path(path_type=Path), help="Folder of what is done; needed but for --check."
)
@click.option(
    "--run", "runs", multiple=True, type=click.Path(path_type=Path, exists=True), help="A run; or several."
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    default=("auto", "ml_1m_best"),
    show_default=True,
    help="What is trained where no --run is given.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="A field of what is trained."
)
@click.option(
    "--peers/--no-peers", default=True, show_default=True, help="Train models of other libraries too."
)
@click.option(
    "--minutes", default=20.0, show_default=True, help="After which a training of auto or a peer ends."
)
@click.option("--seed", default=2020, show_default=True, help="Seed of peers.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Measure these parts only; write no record.")
@click.option("--list", "lists", is_flag=True, help="Name the parts and say which are done.")
@click.option("--check", is_flag=True, help="Check the split, and end.")
@click.option("--published/--other-data", default=True, help="Whether --data is ML-1M with known counts.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(
    data: Path,
    work: Path | None,
    runs: tuple[Path, ...],
    presets: tuple[str, ...],
    assignments: tuple[str, ...],
    peers: bool,
    minutes: float,
    seed: int,
    only: tuple[str, ...],
    lists: bool,
    check: bool,
    published: bool,
    out: Path,
) -> None:
    """Check the split, then rank everything on it."""
    data = data.resolve()
    if work is None and not check:
        raise UsageError("give --work FOLDER for what is done, so that it can go on; or --check")
    todo = parts(data, work or Path(), runs, presets, assignments, peers, minutes, seed) if not check else {}
    if lists and work:
        print("\n".join(f"{name:24} {'done' if _path(work, name).exists() else ''}" for name in todo))
        return
    if only and work:
        chosen = [name for name in todo if any(fnmatch(name, pattern) for pattern in only)]
        if not chosen:
            raise UsageError(f"no part is named {' or '.join(only)}; there are {', '.join(todo)}")
        for name in chosen:
            kept(work, name, todo[name])
        return
    split = check_split(data, protocol_of("file"), PUBLISHED if published else {})
    print(json.dumps(split, indent=1), flush=True)
    rows: Rows = [{"what": "split", **split}]
    for name, measure in todo.items():
        rows += kept(work or Path(), name, measure)
    print("\n".join(line(row) for row in rows if "targets" in row))
    print(write_record("global-time", rows, headlines(rows), out))


def protocol_of(ties: str) -> Protocol:
    """Return `time-to-split` with ties as in the file or by hash."""
    protocol = named("time-to-split")
    if ties == "file":
        return protocol
    return protocol.model_copy(update={"ties": ties, "name": f"{protocol.name}, {ties}"})


def parts(
    data: Path,
    work: Path,
    runs: tuple[Path, ...],
    presets: tuple[str, ...],
    assignments: tuple[str, ...],
    peers: bool,
    minutes: float,
    seed: int,
) -> dict[str, Callable[[], Rows]]:
    """Return what each part of the table measures, by name; the timed one comes last."""
    found: dict[str, Callable[[], Rows]] = {}
    protocols = {ties: protocol_of(ties) for ties in ("file", "hash")}
    for run in runs:
        _require_split(run, list(protocols.values()))
        found[f"run-{run.name}"] = partial(rank_run, run, data)
    for ties, protocol in protocols.items():
        for preset in () if runs else presets:
            run = work / f"{preset}-{ties}"
            found[run.name] = partial(_train_and_rank, run, data, preset, assignments, protocol, minutes)
        for peer in PEERS if peers else ():
            if find_spec(LIBRARY[peer]):
                found[f"{peer}-{ties}"] = partial(rank_peer, peer, data, protocol, minutes, seed)
        found[f"baselines-{ties}"] = partial(rank_baselines, data, protocol)
    timed = runs[0] if runs else work / f"{presets[-1]}-file"
    return found | {"speed": partial(time_successive, timed, data)}


def kept(work: Path, name: str, measure: Callable[[], Rows]) -> Rows:
    """Return what was measured under this name before, or measure it now and keep it."""
    path = _path(work, name)
    if not path.exists():
        print(f"{name} ...", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measure())
    rows: Rows = json.loads(path.read_text())
    return rows


def headlines(rows: Rows) -> list[dict[str, Any]]:
    """Return the record's figures: rows of the split, seconds of the successive row, the peer's figure."""
    peer = "published counts, and its rules in pandas"
    found = [headline("protocol.split_rows_wrong", rows[0]["rows_wrong"], "rows", 0, peer)]
    for row in rows[1:]:
        if row["what"] == "speed":
            goal = SUCCESSIVE_GOAL_S if torch.cuda.is_available() else None
            what = f"{row['ranked']:,} targets, both time settings, seen kept and excluded, reading included"
            found.append(headline("protocol.successive_seconds", row["seconds"], "s", goal, what))
        if row["what"] == "rectools sasrec" and (row["ties"], row["targets"]) == ("file", "last"):
            for metric, value in PUBLISHED_SASREC.items():
                mine = row["unknown"]["users"][metric]
                peer = f"Time to Split's SASRec {value}; one standard deviation of HR@10 is .0105"
                name = f"protocol.sasrec_{metric.lower().replace('@', '')}"
                found.append(headline(name, mine, "", None, peer))
    return found


def _train_and_rank(
    run: Path, data: Path, preset: str, assignments: tuple[str, ...], protocol: Protocol, minutes: float
) -> Rows:
    train(data, run, preset, assignments, protocol, minutes)
    return rank_run(run, data)


def _require_split(run: Path, protocols: list[Protocol]) -> None:
    """Refuse a run that was trained on something else."""
    own = RunFolder.open(run).config().protocol
    if own.training() not in [protocol.training() for protocol in protocols]:
        raise UsageError(f"{run} was not trained by --protocol time-to-split; it is {own.name}")


def _path(work: Path, name: str) -> Path:
    return work / "rows" / f"{name}.json"


if __name__ == "__main__":
    main()
