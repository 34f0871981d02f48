"""Who is told of a cycle: gauges for Prometheus, a webhook, Weights & Biases. All of it follows from the journal."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drift.config import SEVERITIES
from ss4rec.cluster.secrets import redact
from ss4rec.errors import ConfigError
from ss4rec.io.atomic import write_whole
from ss4rec.loop.settings import TellConfig

ACTIONS = ("nothing", "wait", "look", "retrain")
PREFIX = "ss4rec_watch_"
ATTEMPTS, PAUSE_S, ANSWER_S = 3, 2.0, 10.0
"""A webhook is tried so often, with this pause; each time it has so long to answer."""
ALERTED = ("look",)
"""Actions that a person has to know of."""
HELP = {
    "action": "What was decided: 0 nothing, 1 wait, 2 look, 3 retrain.",
    "verdict": "Verdict of the last window: 0 undecided, 1 none, 2 noted, 3 drift, 4 severe.",
    "champion_version": "Version that serves; 0 if none does.",
    "champion_age_windows": "Windows that have ended since the champion's cut.",
    "trainings_total": "Trainings that the loop has made.",
    "promotions_total": "Trainings that were promoted.",
    "training_seconds_total": "Seconds of all trainings.",
    "last_look_timestamp_seconds": "When the data were looked at (unix time).",
    "hit_rate_at_10": "HR@10 of the champion in the last window.",
    "regret": "HR@10 of recent popularity less that of the champion, in the last window.",
}
_COUNTERS = ("trainings_total", "promotions_total", "training_seconds_total")


def gauges(model: str, rows: Sequence[Mapping[str, Any]], now_s: float) -> str:
    """Return the text of a Prometheus textfile.

    Args:
        model: value of the label `model`.
        rows: the journal.
        now_s: unix time.
    """
    last = {row["step"]: row for row in rows}
    look, decided, moved = (last.get(step, {}) for step in ("look", "decide", "promote"))
    trained = [row for row in rows if row["step"] == "train"]
    version = moved.get("version") or look.get("champion") or 0
    moved_on = moved.get("promoted") and moved.get("cycle") == look.get("cycle")
    figures: dict[str, Any] = {
        "action": ACTIONS.index(decided.get("action", "nothing")),
        "champion_version": version,
        "champion_age_windows": 0 if moved_on else len(look.get("windows", ())),
        "trainings_total": len(trained),
        "promotions_total": sum(bool(row.get("promoted")) for row in rows if row["step"] == "promote"),
        "training_seconds_total": sum(row["seconds"] for row in trained),
        "last_look_timestamp_seconds": round(now_s),
    }
    quality = look.get("quality") or {}
    figures |= {"hit_rate_at_10": quality.get("all.HR@10"), "regret": quality.get("regret")}
    lines = []
    label = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    for name, value in figures.items():
        if value is not None:
            lines += [*_head(name), f'{PREFIX}{name}{{model="{label}"}} {value}']
    verdicts = {name: now for name, now in (look.get("verdicts") or {}).items() if now is not None}
    if verdicts:
        lines += _head("verdict")
    for name, now in verdicts.items():
        lines.append(f'{PREFIX}verdict{{model="{label}",question="{name}"}} {SEVERITIES.index(now)}')
    return "\n".join(lines) + "\n"


def _head(name: str) -> list[str]:
    kind = "counter" if name in _COUNTERS else "gauge"
    return [f"# HELP {PREFIX}{name} {HELP[name]}", f"# TYPE {PREFIX}{name} {kind}"]


def write_gauges(path: Path, text: str) -> None:
    """Write the textfile so that a collector finds the old one or the new one."""
    write_whole(path, text.encode())


def message(model: str, cycle: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a webhook gets; `text` is what chat services show.

    Args:
        model: name of the model.
        cycle: the finished steps of the cycle by name.
    """
    decided, moved = cycle["decide"], cycle.get("promote")
    outcome = moved["reason"] if moved else ""
    words = " ".join(part for part in (decided["reason"], outcome) if part)
    return {
        "text": f"{model}: {decided['action']}. {words}",
        "model": model,
        "action": decided["action"],
        "reason": decided["reason"],
        "outcome": outcome,
        "promoted": bool(moved and moved["promoted"]),
        "champion": moved["version"] if moved else cycle["look"]["champion"],
        "verdicts": cycle["look"].get("verdicts", {}),
        "cycle": decided["cycle"],
    }


def wants_webhook(config: TellConfig, sent: Mapping[str, Any]) -> bool:
    """Whether a webhook is called for this message."""
    return bool(config.webhook) and (config.webhook_at == "always" or sent["action"] in (*ALERTED, "retrain"))


def call_webhook(config: TellConfig, sent: Mapping[str, Any]) -> str:
    """POST the message; returns in words what came of it. A receiver that is away never stops the loop.

    The header `Idempotency-Key` names the cycle: a loop that was killed right here sends the same key again.

    Raises:
        ConfigError: if the address is an environment variable that is not set.
    """
    import requests

    address = webhook_address(config)
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            answer = requests.post(
                address, json=dict(sent), timeout=ANSWER_S, headers={"Idempotency-Key": str(sent["cycle"])}
            )
        except requests.RequestException as error:
            problem = type(error).__name__  # the text holds the address, which may hold a token
            continue
        if answer.ok:
            return "sent"
        problem = f"the receiver says {answer.status_code}"
        if 400 <= answer.status_code < 500:
            break
    return f"failed: {problem}"


def webhook_address(config: TellConfig) -> str:
    """Return the address, from the environment where it begins with `$`.

    Raises:
        ConfigError: if the variable is not set.
    """
    if not config.webhook.startswith("$"):
        return config.webhook
    name = config.webhook[1:]
    if not os.environ.get(name):
        raise ConfigError(f"tell.webhook is ${name}, and {name} is not set; set it, or leave the field empty")
    return os.environ[name]


def tell_wandb(config: TellConfig, folder: Path, sent: Mapping[str, Any]) -> str:
    """Keep the cycle as a run of Weights & Biases, with an alert where somebody has to look; returns a line."""
    from ss4rec.config import TrackingConfig
    from ss4rec.train.trackers.weights_biases import start_wandb

    if config.wandb == "disabled":
        return ""
    try:
        tracking = TrackingConfig(wandb=config.wandb, project=config.project, tags=("watch",))
        run = start_wandb(folder, tracking, {}, f"watch-{sent['cycle']}", f"watch-{sent['model']}")
        run.summary.update({name: sent[name] for name in ("action", "reason", "outcome", "champion")})
        if sent["action"] in ALERTED:
            run.alert(title=f"{sent['model']}: look at the data", text=sent["text"])
        run.finish()
    except ConfigError:
        raise
    except Exception as error:  # their own kinds change between versions, and none may stop the loop
        return f"failed: {redact(next(iter(str(error).splitlines()), type(error).__name__))}"
    return "kept"
