"""The model card: what a run is, what it was trained and tested on, how good it is, what it is for and where it ends.

Headings follow Mitchell et al. (2019), "Model cards for model reporting". Everything in it is read from the run folder.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ss4rec.config import RunConfig
from ss4rec.errors import DataError
from ss4rec.evaluation.evaluator import EvalResult
from ss4rec.evaluation.lists import ListResult
from ss4rec.evaluation.run_page import setting_words
from ss4rec.evaluation.saved import MODEL, load_evaluation, saved_evaluations
from ss4rec.evaluation.segments import MIN_USERS, metric_gains, segment_rows, segmentations
from ss4rec.io.atomic import write_whole
from ss4rec.io.untrusted import read_json
from ss4rec.protocol.settings import Protocol
from ss4rec.recommendations.output import ModelRecord, model_record
from ss4rec.runs.folder import RESULT_FILE, RunFolder
from ss4rec.runs.record import RunRecord

CARD_JSON, CARD_MARKDOWN = "card.json", "card.md"
SHOWN = ("HR@10", "NDCG@10", "MRR@10")
WORST = 5
"""Segments with the lowest figures that a card names."""
PAPER = "https://arxiv.org/abs/2502.08132"
INTENDED = (
    "Ranking the items of one catalogue for one person, from the items that this person used before and when.",
    "Lists in files (`ss4rec recommend`), answers to single requests (`ss4rec serve`), and items that are like an item "
    "(`ss4rec similar`).",
)
NOT_INTENDED = (
    "Decisions about people: credit, work, prices, access.",
    "Scores of different users are not comparable, and a score is no probability.",
)


class Figures(BaseModel):
    """Results on one set of held-out events."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluation: str
    """`test` or `valid`, with the protocol's name if it is not the run's own."""
    setting: str
    users: int
    targets: int
    cold_targets: int
    """Held-out items that never trained; they count as misses."""
    metrics: dict[str, dict[str, float]]
    """By scorer and metric."""
    intervals: dict[str, tuple[float, float]] = {}
    """95 % interval over users of the model's figures."""
    lists: ListResult | None = None
    """Metrics of the recommended lists."""
    worst: tuple[tuple[str, str, int, float], ...] = ()
    """Segments with the lowest NDCG@10: division, segment, users, figure."""


class Card(BaseModel):
    """The content of `card.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = 1
    model: ModelRecord
    architecture: dict[str, Any]
    trained: dict[str, Any]
    data: dict[str, Any]
    protocol: Protocol
    figures: tuple[Figures, ...]
    intended_use: tuple[str, ...]
    not_intended: tuple[str, ...]
    limits: tuple[str, ...]


def model_card(run_dir: Path) -> Card:
    """Return the card of a run.

    Raises:
        DataError: if it is no run folder.
        CheckpointError: if no checkpoint is intact.
    """
    run = RunFolder.open(run_dir)
    config, record = run.config(), run.record()
    names = saved_evaluations(run.path)
    figures = tuple(_saved_figures(run.path, name) for name in names) or _result_figures(run, config)
    return Card(
        model=model_record(run),
        architecture={
            "name": "SS4Rec",
            "paper": PAPER,
            "parameters": record.num_parameters,
            **config.model.model_dump(mode="json", exclude_none=True),
        },
        trained={
            "when": record.created,
            "device": record.device,
            "workers": record.workers,
            "seed": config.train.seed,
            "commit": record.commit,
            "versions": record.versions,
            **_training(run),
        },
        data={
            "name": record.data_name,
            "sha256": record.data_sha256,
            "users": record.num_users,
            "items": record.num_items,
            "events": record.num_interactions,
            "median_gap_s": record.median_gap_s,
            "trained_until": _day(record.trained_until_s),
            "division": record.division,
        },
        protocol=record.protocol,
        figures=figures,
        intended_use=INTENDED,
        not_intended=NOT_INTENDED,
        limits=_limits(config, record, bool(figures)),
    )


def write_card(run_dir: Path, out: Path | None = None) -> Card:
    """Write a run's card as `card.md` and `card.json` into a folder, by default its own; raises as `model_card`."""
    card, folder = model_card(run_dir), out or Path(run_dir)
    try:
        text = json.dumps(card.model_dump(mode="json"), indent=2) + "\n"
        write_whole(folder / CARD_JSON, text.encode())
        write_whole(folder / CARD_MARKDOWN, to_markdown(card).encode())
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error}; give another --out") from None
    return card


def to_markdown(card: Card) -> str:
    """Return a card as Markdown."""
    shape = card.architecture
    lines = [
        f"# Model card: {card.model.run}",
        "",
        "## Model",
        "",
        f"[SS4Rec]({shape['paper']}), a state-space model of sequences: {shape['parameters']:,} parameters, "
        f"width {shape['dim']}, {shape['blocks']} blocks.",
        f"Checkpoint of step {card.model.step:,}, sha256 `{card.model.weights_sha256}`; "
        f"configuration `{card.model.fingerprint}`.",
        f"Trained {card.trained['when']} on {card.trained['workers']} x {card.trained['device']}, seed "
        f"{card.trained['seed']}, code {card.trained['commit'] or 'of unknown commit'}"
        + (f"; {card.trained['ended']}." if "ended" in card.trained else "."),
        "",
        "## Data",
        "",
        f"{card.data['name']}: {card.data['events']:,} events of {card.data['users']:,} users with "
        f"{card.data['items']:,} items"
        + (
            f", the last one that trains on {card.data['trained_until']}."
            if card.data["trained_until"]
            else "."
        ),
        f"Fingerprint `{card.data['sha256']}`. Median time between events: {card.data['median_gap_s']:,.0f} s.",
        "",
        "## Protocol",
        "",
        f"{card.protocol.name}, all items ranked: "
        f"{setting_words((card.protocol.seen, card.protocol.target_time))}.",
        ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in card.data["division"].items()),
        "",
        "## Figures",
        "",
        *(line for figures in card.figures for line in _figures_lines(figures)),
        *([] if card.figures else ["Not evaluated yet.", ""]),
        "## Intended use",
        "",
        *(f"- {text}" for text in card.intended_use),
        "",
        "Not for:",
        "",
        *(f"- {text}" for text in card.not_intended),
        "",
        "## Limits",
        "",
        *(f"- {text}" for text in card.limits),
        "",
    ]
    return "\n".join(lines)


def _figures_lines(figures: Figures) -> list[str]:
    """Return one evaluation as a table."""
    names = [name for name in SHOWN if name in figures.metrics[MODEL]]
    rows = [
        f"| {scorer} | " + " | ".join(f"{values[name]:.4f}" for name in names) + " |"
        for scorer, values in figures.metrics.items()
    ]
    cold = f", {figures.cold_targets:,} of them items that never trained" if figures.cold_targets else ""
    lines = [
        f"`{figures.evaluation}`: {figures.targets:,} events of {figures.users:,} users{cold}; {figures.setting}.",
        "",
        f"| scorer | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
        *rows,
        "",
    ]
    if figures.intervals:
        spans = (f"{name} {low:.4f} to {high:.4f}" for name, (low, high) in figures.intervals.items())
        lines += [f"95 % over users: {', '.join(spans)}.", ""]
    if figures.lists is not None:
        values = (f"{name} {value:.3f}" for name, value in figures.lists.metrics.items() if value is not None)
        lines += [f"Lists of {figures.lists.k}: {', '.join(values)}.", ""]
    if figures.worst:
        found = (
            f"{division} {label} ({users:,} users) {value:.4f}"
            for division, label, users, value in figures.worst
        )
        lines += [f"Lowest NDCG@10 by segment of at least {MIN_USERS} users: {'; '.join(found)}.", ""]
    return lines


def _saved_figures(run: Path, name: str) -> Figures:
    """Read what `ss4rec evaluate` kept."""
    saved = load_evaluation(run, name)
    found = _figures(name, saved.results, saved.record.protocol)
    gains_N = metric_gains("NDCG@10", saved.ranks_of())
    users_N = saved.targets["user"].to_numpy()
    rows = [
        row
        for division in segmentations(saved.targets, saved.items)
        for row in segment_rows(division, users_N, gains_N)
        if not row.too_small
    ]
    worst = sorted(rows, key=lambda row: row.value)[:WORST]
    return found.model_copy(
        update={"worst": tuple((row.segmentation, row.label, row.users, row.value) for row in worst)}
    )


def _result_figures(run: RunFolder, config: RunConfig) -> tuple[Figures, ...]:
    """Read the test that ended the training, where no evaluation was kept."""
    path = run.path / RESULT_FILE
    tested = read_json(path).get("test") if path.is_file() else None
    if not tested:
        return ()
    results = {name: EvalResult.model_validate(result) for name, result in tested.items()}
    return (_figures("test", results, config.protocol),)


def _figures(name: str, results: dict[str, EvalResult], protocol: Protocol) -> Figures:
    setting = (protocol.seen, protocol.target_time)
    own = results[MODEL]
    return Figures(
        evaluation=name,
        setting=setting_words(setting),
        users=own.num_users,
        targets=own.num_targets or own.num_users,
        cold_targets=own.cold_targets,
        metrics={scorer: result.setting(*setting).metrics for scorer, result in results.items()},
        intervals=own.setting(*setting).intervals,
        lists=own.lists,
    )


def _training(run: RunFolder) -> dict[str, Any]:
    """Return how training ended, as far as the run says."""
    path = run.path / RESULT_FILE
    training = read_json(path).get("training", {}) if path.is_file() else {}
    return {name: training[name] for name in ("best_epoch", "epochs", "ended") if name in training}


def _new_items(record: RunRecord) -> str:
    """Say what becomes of items that did not train."""
    columns = record.columns.items
    if columns is None:
        return (
            f"It knows {record.num_items:,} items; a new item cannot be recommended before the next training."
        )
    cold = record.num_items - columns.trained
    return (
        f"It knows {record.num_items:,} items, {cold:,} of them by {', '.join(columns.names)} alone; an item "
        "that is not in its data cannot be recommended before the next training."
    )


def _limits(config: RunConfig, record: RunRecord, evaluated: bool) -> tuple[str, ...]:
    """Return what a user of the model has to know, from its configuration."""
    last = _day(record.trained_until_s)
    found = [
        _new_items(record),
        "It learned from what people did, who saw only some of the items: what was shown and popular before is "
        "recommended more.",
        f"It looks at the last {config.data.max_len:,} events of a history.",
        f"Tastes and catalogues change: its data end {'on ' + last if last else 'with the prepared folder'}; "
        "`ss4rec drift` says when it has aged.",
    ]
    if config.data.target_time:
        found.append(
            "It was trained knowing when the next event happens. Where the moment of asking is not given, the median "
            "gap stands in for it, and figures with the time unknown apply."
        )
    if "profile" in config.model.inputs or record.columns.users:
        found.append(
            "It reads profiles of users (gender, age, occupation and the like), which may be personal data and may "
            "make groups be treated differently."
        )
    if not evaluated:
        found.append("It was not evaluated: nothing is known about how good it is.")
    return tuple(found)


def _day(moment_s: int | None) -> str | None:
    return None if moment_s is None else datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d")
