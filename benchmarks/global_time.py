"""The split of Time to Split (RecSys 2025, arXiv 2507.16289) on ML-1M: rebuilt, checked, and every model ranked on it.

`python -m benchmarks.global_time --data ML1M --check` only checks the split; ML1M is ML-1M as `ss4rec data prepare` writes
it (--k-core 5 or 0, order of the file). The split is compared with the published counts, and event by event with the
published rules written down once more in pandas.

`python -m benchmarks.global_time --data ML1M --work W --run RUN ...` ranks runs of `ss4rec train --protocol time-to-split`
(several; `--set protocol.ties=hash` makes the strict ones), all baselines, and SASRec and BERT4Rec of rectools where it is
installed, for the five targets, with the target's time known and not, ties by file and by hash. Without --run it trains
`--preset` itself, on this machine's card. Each result is kept in W: the same command goes on where it stopped.
It writes `global-time-<YYYYMMDD>.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from benchmarks.record import headline, write_record
from ss4rec.cli.options import resolve_config
from ss4rec.config import DataConfig, RunConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import UsageError
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.scorers import ModelScorer, Scorer
from ss4rec.io.atomic import write_json
from ss4rec.protocol.divide import Events
from ss4rec.protocol.named import named
from ss4rec.protocol.plan import Plan, make_plan
from ss4rec.protocol.settings import Protocol, TargetChoice
from ss4rec.runs.folder import RESULT_FILE, RunFolder
from ss4rec.runs.load import load_model
from ss4rec.train.worker import train_alone

TARGETS: tuple[TargetChoice, ...] = ("last", "successive", "random", "first")
PUBLISHED = {
    "train_rows": 899_650,
    "train_users": 6_011,
    "train_items": 3_412,
    "cut_s": 978_132_488,
    "later_users": 1_209,
    "later_events": 99_961,
    "fit_rows": 809_685,
    "fit_users": 5_453,
    "valid_cut_s": 975_962_083,
    "valid_users": 1_046,
    "test_cold_targets": 6,
}
"""ML-1M, quantile .9, validation by time, last target."""
PUBLISHED_SASREC = {"HR@10": 0.1596, "NDCG@10": 0.0948}
"""Last target, validation by time; one standard deviation of HR@10 over 1,209 users is .0105."""
PEERS: dict[str, dict[str, Any]] = {
    "sasrec": {"session_max_len": 128, "n_factors": 64, "n_blocks": 2, "n_heads": 2, "dropout_rate": 0.2},
    "bert4rec": {"session_max_len": 128, "n_factors": 64, "n_blocks": 2, "n_heads": 2, "dropout_rate": 0.2},
}
"""Shapes inside the published grid."""
SUCCESSIVE_GOAL_S = 10.0


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Prepared ML-1M.")
@click.option(
    "--work", type=click.Path(path_type=Path), help="Folder of what is done; needed but for --check."
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="A run; several may be given.",
)
@click.option(
    "--preset", default="ml_1m_best", show_default=True, help="What is trained where no --run is given."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="A field of what is trained."
)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Train rectools' models too.")
@click.option("--minutes", default=20.0, show_default=True, help="After which a peer's training ends.")
@click.option("--seed", default=2020, show_default=True, help="Seed of peers.")
@click.option("--check", is_flag=True, help="Check the split, and end.")
@click.option(
    "--published/--other-data", default=True, help="Whether --data is ML-1M, so that counts are known."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(
    data: Path,
    work: Path | None,
    runs: tuple[Path, ...],
    preset: str,
    assignments: tuple[str, ...],
    peers: bool,
    minutes: float,
    seed: int,
    check: bool,
    published: bool,
    out: Path,
) -> None:
    """Check the split, then rank everything on it."""
    data = data.resolve()
    protocols = {ties: _protocol(ties) for ties in ("file", "hash")}
    split = check_split(data, protocols["file"], PUBLISHED if published else {})
    print(json.dumps(split, indent=1), flush=True)
    headlines = [
        headline(
            "protocol.split_rows_wrong",
            split["rows_wrong"],
            "rows",
            0,
            "published counts, and its rules in pandas",
        )
    ]
    rows: list[dict[str, Any]] = [{"what": "split", **split}]
    if not check:
        if work is None:
            raise UsageError("give --work FOLDER for what is done, so that it can go on; or --check")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not runs:
            runs = tuple(_train(data, work, preset, assignments, protocols[t], device) for t in protocols)
        rows += _rank_all(data, work, runs, protocols, peers, minutes, seed, device)
        headlines += _seconds(rows, device)
        print(table(rows))
    print(write_record("global-time", rows, headlines, out))


def _protocol(ties: str) -> Protocol:
    protocol = named("time-to-split")
    return (
        protocol
        if ties == "file"
        else protocol.model_copy(update={"ties": ties, "name": f"{protocol.name}, hash"})
    )


def check_split(data: Path, protocol: Protocol, published: dict[str, int]) -> dict[str, Any]:
    """Compare the division with published counts and with the published rules in pandas, event by event.

    Returns:
        `facts` of the plan; `counts_wrong`, those that differ; `rows_wrong`, events that are in another part.
    """
    plan = make_plan(protocol, data)
    mine, theirs = _own_parts(data, plan), published_parts(data, protocol)
    wrong = {part: len(mine[part] ^ theirs[part]) for part in theirs}
    counts = {name: plan.facts[name] for name in published if plan.facts[name] != published[name]}
    return {
        "facts": plan.facts,
        "counts_wrong": counts,
        "parts_wrong": wrong,
        "rows_wrong": sum(wrong.values())
        + sum(abs(found - published[name]) for name, found in counts.items()),
    }


def _own_parts(data: Path, plan: Plan) -> dict[str, set[tuple[int, int]]]:
    """Return (user, item) of each part; ML-1M holds no pair twice."""
    parts: dict[str, set[tuple[int, int]]] = {"fit": set(), "valid": set(), "test": set()}
    assert plan.items_I is not None
    source_V = np.concatenate([[0], plan.items_I])
    for shard in _shards(data):
        division = plan.divide(shard)
        known = Events.of(division.histories)
        place_E = np.arange(len(known.items_E)) - np.repeat(known.offsets_U1[:-1], known.counts_U)
        fit_E = place_E < np.repeat(division.fit_U, known.counts_U)
        pairs = zip(known.user_E[fit_E].tolist(), source_V[known.items_E[fit_E]].tolist(), strict=True)
        parts["fit"].update(pairs)
        for name, targets in (("valid", division.valid), ("test", division.test)):
            users_N = known.users_U[targets.row_N].tolist()
            parts[name].update(zip(users_N, targets.source_N.tolist(), strict=True))
    return parts


def published_parts(data: Path, protocol: Protocol) -> dict[str, set[tuple[int, int]]]:
    """Apply the published rules with pandas: 5-core, no immediate repeats, a stable sort, quantiles of all rows."""
    shards = [Events.of(shard) for shard in _shards(data)]
    frame = pd.concat(
        pd.DataFrame({"user": e.user_E, "item": e.items_E, "time": e.times_E}) for e in shards
    ).reset_index(drop=True)
    while True:
        counts = (
            frame.groupby("user")["item"].transform("size"),
            frame.groupby("item")["user"].transform("size"),
        )
        enough = (counts[0] >= protocol.k_core) & (counts[1] >= protocol.k_core)
        if enough.all():
            break
        frame = frame[enough]
    frame = frame.sort_values(["user", "time"], kind="stable")
    frame = frame[(frame["item"] != frame.groupby("user")["item"].shift()).to_numpy()]
    train, test, _ = _published_cut(frame, float(protocol.cut or 0))
    fit, valid, _ = _published_cut(train, protocol.validation_quantile)
    last = [part.groupby("user").tail(1) for part in (valid, test)]
    parts = dict(zip(("fit", "valid", "test"), (fit, *last), strict=True))
    return {name: set(zip(p["user"].tolist(), p["item"].tolist(), strict=True)) for name, p in parts.items()}


def _shards(data: Path) -> Iterator[pa.Table]:
    folder = PreparedFolder.open(data)
    yield from (folder.read_shard(number) for number in range(len(folder.manifest.shards)))


def _published_cut(frame: pd.DataFrame, quantile: float) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """Return events up to the quantile of users whose second event is by then, and users whose last one is later."""
    cut = frame["time"].quantile(quantile)
    times = frame.groupby("user")["time"]
    second, last = times.apply(lambda t: t.iloc[1] if len(t) > 1 else np.inf), times.last()
    early = frame["user"].isin(second[second <= cut].index) & (frame["time"] <= cut)
    return frame[early], frame[frame["user"].isin(last[last > cut].index)], cut


def _train(
    data: Path,
    work: Path,
    preset: str,
    assignments: tuple[str, ...],
    protocol: Protocol,
    device: torch.device,
) -> Path:
    """Train a preset in this process, or go on with it; return its folder."""
    run = work / f"{preset}-{protocol.ties}"
    config = resolve_config(preset, [*assignments, "data.source=local"])
    config = config.model_copy(update={"protocol": protocol})
    if not (run / RESULT_FILE).exists():
        write_json_after = train_alone(config, data, run, device).as_dict()
        write_json(run / RESULT_FILE, {"training": write_json_after})
    return run


def _rank_all(
    data: Path,
    work: Path,
    runs: tuple[Path, ...],
    protocols: dict[str, Protocol],
    peers: bool,
    minutes: float,
    seed: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Rank every model; what is in `work` already is read from there."""
    rows = []
    for run in runs:
        config = RunFolder.open(run).config()
        if config.protocol.training() not in [protocol.training() for protocol in protocols.values()]:
            raise UsageError(
                f"{run} was not trained by --protocol time-to-split; it is {config.protocol.name}"
            )
        rows += _kept(
            work, f"run-{run.name}", lambda run=run, config=config: rank_run(run, config, data, device)
        )
    for ties, protocol in protocols.items():
        rows += _kept(work, f"baselines-{ties}", lambda protocol=protocol: rank_baselines(data, protocol))
        for peer, options in PEERS.items() if peers and find_spec("rectools") else ():
            rows += _kept(
                work,
                f"{peer}-{ties}",
                lambda peer=peer, options=options, protocol=protocol: rank_peer(
                    peer, options, data, protocol, minutes, seed
                ),
            )
    return rows


def _kept(work: Path, name: str, measure: Any) -> list[dict[str, Any]]:
    """Return what was measured under this name before, or measure it now and keep it."""
    path = work / "rows" / f"{name}.json"
    if not path.exists():
        print(f"{name} ...", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measure())
    return json.loads(path.read_text())


def rank_run(run: Path, config: RunConfig, data: Path, device: torch.device) -> list[dict[str, Any]]:
    """Rank the targets with a run's best checkpoint."""
    model, _ = load_model(run, str(device))
    gap_s, asked_s = (
        RunFolder.open(run).record().median_gap_s,
        make_plan(config.protocol, data).asked_from_s("test"),
    )
    scorer = ModelScorer(model, gap_s, config.data.target_time, asked_s)
    return [
        _row(f"ss4rec {run.name}", scorer, plan, LocalSource.of(_with(config, plan.protocol), data), config)
        for plan in plans(data, config.protocol)
    ]


def rank_baselines(data: Path, protocol: Protocol) -> list[dict[str, Any]]:
    """Rank the targets with every baseline."""
    config = RunConfig(data=DataConfig(max_len=200, overlap=0), protocol=protocol)
    found: dict[str, Scorer] = baselines(data, make_plan(protocol, data))
    return [
        _row(name, scorer, plan, LocalSource.of(_with(config, plan.protocol), data), config)
        for name, scorer in found.items()
        for plan in plans(data, protocol)
    ]


def rank_peer(
    name: str, options: dict[str, Any], data: Path, protocol: Protocol, minutes: float, seed: int
) -> list[dict[str, Any]]:
    """Train a model of rectools on the split's training events, and rank the targets."""
    from benchmarks.quality.peers import train_rectools

    scorer, facts = train_rectools(name, dict(options), data, seed, minutes, protocol)
    data_config = DataConfig(max_len=int(options["session_max_len"]), overlap=0)
    config = RunConfig(data=data_config, protocol=protocol)
    rows = [
        _row(f"rectools {name}", scorer, plan, LocalSource.of(_with(config, plan.protocol), data), config)
        for plan in plans(data, protocol)
    ]
    return [row | {"options": options, "outcome": facts["outcome"]} for row in rows]


def plans(data: Path, protocol: Protocol) -> Iterator[Plan]:
    """Yield the plan for each kind of targets; what trains is the same in all."""
    for targets in TARGETS:
        yield make_plan(protocol.model_copy(update={"targets": targets}), data)


def _with(config: RunConfig, protocol: Protocol) -> RunConfig:
    return config.model_copy(update={"protocol": protocol})


def _row(name: str, scorer: Scorer, plan: Plan, source: LocalSource, config: RunConfig) -> dict[str, Any]:
    """Rank one model on one kind of targets: seen items excluded, the target's time known and not."""
    protocol = plan.protocol
    began = time.perf_counter()
    ranks = rank_users(scorer, source.eval_batches("test", config.evaluation.batch_users))
    seconds = time.perf_counter() - began
    result = summarise(ranks, (5, 10, 20), protocol=protocol)
    row: dict[str, Any] = {
        "what": name,
        "ties": protocol.ties,
        "targets": protocol.targets,
        "users": result.num_users,
        "ranked": result.num_targets,
        "cold": result.cold_targets,
        "seconds": round(seconds, 3),
    }
    for known in ("unknown", "known"):
        setting = result.setting("excluded", known)  # type: ignore[arg-type]
        row[known] = {"users": setting.metrics, "events": setting.by_target, "intervals": setting.intervals}
    print(_line(row), flush=True)
    return row


def _line(row: dict[str, Any]) -> str:
    """Show HR@10/NDCG@10 of a row, time unknown and known."""
    cells = []
    for known in ("unknown", "known"):
        for over in ("users", "events"):
            if found := row[known][over]:
                cells.append(f"{known} {over} {found['HR@10']:.4f}/{found['NDCG@10']:.4f}")
    return (
        f"{row['what']:28} {row['ties']:5} {row['targets']:11} {'  '.join(cells)}  ({row['seconds']:.1f} s)"
    )


def _seconds(rows: list[dict[str, Any]], device: torch.device) -> list[dict[str, Any]]:
    """Return how long the successive row of the first run took, and rectools' SASRec against the published figure."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row["what"].startswith("ss4rec") and row["targets"] == "successive" and not found:
            goal = SUCCESSIVE_GOAL_S if device.type == "cuda" else None
            what = f"{row['ranked']:,} targets, both time settings, seen kept and excluded, reading included"
            found.append(headline("protocol.successive_seconds", row["seconds"], "s", goal, what))
    for row in rows:
        if row["what"] == "rectools sasrec" and (row["ties"], row["targets"]) == ("file", "last"):
            mine = row["unknown"]["users"]["HR@10"]
            peer = f"Time to Split's SASRec {PUBLISHED_SASREC['HR@10']}, one standard deviation .0105"
            found.append(headline("protocol.sasrec_hr10", mine, "", None, peer))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return all rows as lines."""
    return "\n".join(_line(row) for row in rows if "targets" in row)


if __name__ == "__main__":
    main()
