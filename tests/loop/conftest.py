"""A small loop whose costly steps are quick, on a real registry, a real journal and real reports."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from drift.report.contents import REPORT_NAME, Report, Verdict, Verdicts
from ss4rec.config import parse_section
from ss4rec.loop.settings import WatchConfig
from ss4rec.loop.watch import Work
from ss4rec.runs import checkpoint
from tests.test_golden_folders import GOLDEN


def verdict(now="none", new=None, since=None):
    sentence = f"It is {now}."
    return Verdict(severity=now, now=now, new=new or now, since=since, sentence=sentence, action="nothing")


def write_report(folder, windows, **verdicts):
    """Write a report with these verdicts; the others are `none`."""
    names = ("pipeline", "data", "unseen", "model_fall", "regret")
    found = {name: verdict(verdicts.get(name, "none")) for name in names}
    record = {"users": 9, "new_users": 1, "events": 30, "turnover": None, "verdict": "none"}
    report = Report(
        headline="As always.", verdict="none", alert="none", verdicts=Verdicts(**found), cut_s=1,
        last_window=windows[-1], new_windows=[windows[-1]], reference=[], calibration=[], quality_reference=None,
        smallest_fall=None, quality=[], windows=[{"name": name} | record for name in windows], past_turnover=None,
        known_events=[], changes=[], episodes=[], metadata=None, cells=[], levels={}, distributions={}, config={},
        versions={},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT_NAME).write_text(report.model_dump_json())


def other_run(folder, change=0.1):
    """A copy of the golden run with another weight."""
    run = shutil.copytree(GOLDEN / "run", folder, dirs_exist_ok=True)
    best = checkpoint.best(run / "checkpoints")
    tensors = best.model_tensors()
    tensors["embedding.weight"][1] += change
    state = {k: v for k, v in best.state.items() if k != "format"}
    checkpoint.save(run / "checkpoints", model=tensors, training=best.training_tensors(), state=state)
    return run


class Quick:
    """Costly steps that are quick: what the report says and how the comparison ends is chosen."""

    def __init__(self, better=True, windows=3, **verdicts):
        self.better, self.verdicts = better, verdicts
        self.windows = [f"w{number}" for number in range(1, windows + 1)]
        self.done = []

    def work(self):
        return Work(self.look, self.train, self.compare, nullcontext)

    def look(self, place, last):
        self.done.append("look")
        version = place.registry.champion_version()
        write_report(place.folder / "report", self.windows, **self.verdicts)
        seen = 0 if last is None else last["last_end_s"]
        return {
            "champion": version,
            "cut_s": 1,
            "windows": self.windows,
            "last_end_s": max(seen, len(self.windows)),
            "ended_windows": max(seen, len(self.windows)),
            "spare_windows": len(self.windows) - 1,
            "report": None if version is None else str(place.folder / "report"),
            "verdicts": {name: self.verdicts.get(name, "none") for name in ("pipeline", "model_fall")},
            "quality": {"all.HR@10": 0.25, "pop_rolling.HR@10": 0.2, "regret": -0.05},
        }

    def train(self, place, looked, how):
        self.done.append(f"train {how}")
        run = other_run(place.folder / "challenger", 0.1 * len(looked["windows"]))
        return {"run": str(run), "how": how, "seconds": 2.5, "ended_windows": looked["ended_windows"]}

    def compare(self, place, looked, run):
        self.done.append("compare")
        reason = (
            "The challenger is better."
            if self.better
            else "It was not shown to be better. The champion stays."
        )
        row = {"group": "all", "users": 90, "events": 200, "champion": 0.1, "challenger": 0.12, "low": 0.01,
               "high": 0.03, "p": 0.001}  # fmt: skip
        return {"promote": self.better, "reason": reason, "metric": "NDCG@10", "rows": [row]}


@pytest.fixture
def loop(tmp_path):
    """Return a function that makes the configuration of a loop in a folder of its own."""

    def make(**sections):
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.copytree(GOLDEN / "prepared", tmp_path / "data" / "films", dirs_exist_ok=True)
        places = {name: str(tmp_path / value) for name, value in
                  (("model", "registry/films"), ("data", "data/films"), ("work", "watch"))}  # fmt: skip
        return parse_section(WatchConfig, {**places, **sections}, "watch.toml")

    return make


def grow(config: WatchConfig, marker: int) -> None:
    """Let the data be other data: their manifest says so."""
    path = Path(config.data) / "manifest.json"
    raw = json.loads(path.read_text())
    raw["median_gap_s"] = 1000.0 + marker
    path.write_text(json.dumps(raw))
