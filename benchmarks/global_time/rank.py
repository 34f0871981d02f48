"""One row of the table: a model ranked on one kind of targets, and what trains it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ss4rec.auto.resolve import Auto
from ss4rec.cli.options import resolve_config
from ss4rec.config import DataConfig, RunConfig, override
from ss4rec.data.batches.source import LocalSource
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.scorers import ModelScorer, Scorer
from ss4rec.io.atomic import write_json
from ss4rec.presets import AUTO
from ss4rec.protocol.plan import Plan, make_plan
from ss4rec.protocol.settings import Protocol, TargetChoice
from ss4rec.runs.folder import RESULT_FILE, RunFolder
from ss4rec.runs.load import load_model
from ss4rec.train.status import say
from ss4rec.train.worker import train_alone

TARGETS: tuple[TargetChoice, ...] = ("last", "successive", "random", "first")
PEERS: dict[str, dict[str, Any]] = {
    "sasrec": {"session_max_len": 128, "n_factors": 64, "n_blocks": 2, "n_heads": 2, "dropout_rate": 0.2},
    "bert4rec": {"session_max_len": 128, "n_factors": 64, "n_blocks": 2, "n_heads": 2, "dropout_rate": 0.2},
    "gru4rec": {"session_max_len": 128, "embedding_size": 64, "hidden_size": 128, "dropout_prob": 0.2},
}
"""Shapes inside the published grid; the first two of rectools, GRU4Rec of RecBole."""
LIBRARY = {"sasrec": "rectools", "bert4rec": "rectools", "gru4rec": "recbole"}
SPEED_BATCH = 2048
"""Targets that are scored together where the successive row is timed."""


def train(
    data: Path, run: Path, preset: str, assignments: tuple[str, ...], protocol: Protocol, minutes: float
) -> None:
    """Train a preset in this process, or go on with it; `auto` chooses for the folder."""
    if (run / RESULT_FILE).exists():
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if preset == AUTO:
        config = Auto(protocol, {}, minutes)(data, device.type == "cuda", say)
        config = override(config, {"data.source": "local", "tracking.wandb": "disabled"})
    else:
        config = resolve_config(preset, [*assignments, "data.source=local"])
    config = config.model_copy(update={"protocol": protocol})
    outcome = train_alone(config, data, run, device)
    write_json(run / RESULT_FILE, {"training": outcome.as_dict()})


def rank_run(run: Path, data: Path) -> list[dict[str, Any]]:
    """Rank the targets with a run's best checkpoint."""
    config, scorer = _scorer(run, data)
    return [
        row(f"ss4rec {run.name}", scorer, plan, _source(config, plan, data), config)
        for plan in plans(data, config.protocol)
    ]


def time_successive(run: Path, data: Path) -> list[dict[str, Any]]:
    """Rank all successive targets twice with nothing else beside: compiled, warmed, then timed."""
    config, scorer = _scorer(run, data)
    config = override(config, {"evaluation.batch_users": SPEED_BATCH})
    plan = make_plan(config.protocol.model_copy(update={"targets": "successive"}), data)
    first, second = (row("speed", scorer, plan, _source(config, plan, data), config) for _ in range(2))
    return [second | {"run": run.name, "first_seconds": first["seconds"], "batch_targets": SPEED_BATCH}]


def rank_baselines(data: Path, protocol: Protocol) -> list[dict[str, Any]]:
    """Rank the targets with every baseline."""
    config = RunConfig(data=DataConfig(max_len=200, overlap=0), protocol=protocol)
    found: dict[str, Scorer] = baselines(data, make_plan(protocol, data))
    return [
        row(name, scorer, plan, _source(config, plan, data), config)
        for name, scorer in found.items()
        for plan in plans(data, protocol)
    ]


def rank_peer(name: str, data: Path, protocol: Protocol, minutes: float, seed: int) -> list[dict[str, Any]]:
    """Train a peer on the split's training events, and rank the targets."""
    from benchmarks.quality.gru4rec import train_gru4rec
    from benchmarks.quality.peers import train_rectools

    options = PEERS[name]
    scorer: Scorer
    if name == "gru4rec":
        scorer, facts = train_gru4rec(dict(options), data, seed, minutes, protocol)
    else:
        scorer, facts = train_rectools(name, dict(options), data, seed, minutes, protocol)
    config = RunConfig(data=DataConfig(max_len=int(options["session_max_len"]), overlap=0), protocol=protocol)
    label = f"{LIBRARY[name]} {name}"
    rows = [row(label, scorer, plan, _source(config, plan, data), config) for plan in plans(data, protocol)]
    return [found | {"options": options, **facts} for found in rows]


def plans(data: Path, protocol: Protocol) -> Iterator[Plan]:
    """Yield the plan for each kind of targets; what trains is the same in all."""
    for targets in TARGETS:
        yield make_plan(protocol.model_copy(update={"targets": targets}), data)


def row(name: str, scorer: Scorer, plan: Plan, source: LocalSource, config: RunConfig) -> dict[str, Any]:
    """Rank one model on one kind of targets: seen items excluded, the target's time known and not."""
    protocol = plan.protocol
    began = time.perf_counter()
    ranks = rank_users(scorer, source.eval_batches("test", config.evaluation.batch_users))
    seconds = time.perf_counter() - began
    result = summarise(ranks, (5, 10, 20), protocol=protocol)
    found: dict[str, Any] = {
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
        found[known] = {"users": setting.metrics, "events": setting.by_target, "intervals": setting.intervals}
    print(line(found), flush=True)
    return found


def line(found: dict[str, Any]) -> str:
    """Show HR@10/NDCG@10 of a row, time unknown and known."""
    cells = []
    for known in ("unknown", "known"):
        for over in ("users", "events"):
            if values := found[known][over]:
                cells.append(f"{known} {over} {values['HR@10']:.4f}/{values['NDCG@10']:.4f}")
    start = f"{found['what']:28} {found['ties']:5} {found['targets']:11}"
    return f"{start} {'  '.join(cells)}  ({found['seconds']:.1f} s)"


def _scorer(run: Path, data: Path) -> tuple[RunConfig, ModelScorer]:
    """Return a run's configuration, and its best checkpoint as a scorer on the card where there is one."""
    folder = RunFolder.open(run)
    model, config = load_model(run, "cuda" if torch.cuda.is_available() else "cpu")
    asked_s = make_plan(config.protocol, data).asked_from_s("test")
    return config, ModelScorer(model, folder.record().median_gap_s, config.data.target_time, asked_s)


def _source(config: RunConfig, plan: Plan, data: Path) -> LocalSource:
    return LocalSource.of(config.model_copy(update={"protocol": plan.protocol}), data)
