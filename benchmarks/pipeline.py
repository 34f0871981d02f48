"""From 32 million ratings as CSV to lists of all users and a drift report, by `ss4rec demo --like ml-32m`'s own stages.

`python -m benchmarks.pipeline --storage FOLDER` runs what is not done yet (killed, the same command goes on), and writes
`pipeline-<YYYYMMDD>.json` stage by stage: seconds, peak memory of all processes together, and the share of its floor.
The record has headlines only for a whole run at full size, with the preset's own model and ten epochs, in which no stage
was begun twice; any other is called `pipeline-part`.

Floors, each a minimum that no program gets below: for `prepare`, Arrow reading the same CSV here with all cores; for
`cut`, a plain copy of what was written; for `train`, `rank` and `recommend`, bytes, products and exponentials of the
model on the card (`ss4rec.auto.cost`; only for an H100); for `drift`, Arrow reading the timeline. `generate` has none.

`--percent 1` does it with one in a hundred of the users and items, also on a CPU with `--preset debug`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from benchmarks.memory import PeakMemory
from benchmarks.record import device_name, headline, write_record
from ss4rec.auto.cost import H100, floor_s
from ss4rec.cli.pipeline import JOURNAL_FILE, Done, Settings, done_stages, run_pipeline
from ss4rec.config import RunConfig
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.synth.settings import LIKE
from ss4rec.io.journal import Journal
from ss4rec.io.untrusted import read_json
from ss4rec.runs.folder import RESULT_FILE, RunFolder

GOAL_MINUTES, GOAL_GIB = 10.0, 24.0
LIKENESS = "ml-32m"
FORWARD_SHARE = 1 / 3
"""Of a training step's products, those of its forward pass."""
FIGURES_FILE = "figures.jsonl"
FIGURES = ("peak_gib", "floor", "floor_s")
STAGES = ("generate", "prepare", "cut", "train", "rank", "recommend", "drift")


@click.command(help=__doc__)
@click.option("--storage", type=click.Path(path_type=Path), required=True, help="Everything is written here.")
@click.option("--source", help="Ratings instead of generated ones.")
@click.option("--percent", type=click.FloatRange(0, 100, min_open=True), default=100.0, show_default=True)
@click.option("--preset", default="ml_20m_best", show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Fields of the training.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(
    storage: Path,
    source: str | None,
    percent: float,
    preset: str,
    assignments: tuple[str, ...],
    out: Path,
) -> None:
    """Run the pipeline and write its record."""
    like, share = LIKE[LIKENESS], percent / 100
    asked = Settings(
        like=LIKENESS,
        source=source,
        users=None if share == 1 else round(like.users * share),
        items=None if share == 1 else max(400, round(like.items * share)),
        preset=preset,
        train=tuple(word for text in assignments for word in ("--set", text)),
    )
    storage = storage.resolve()
    data = storage / "source"
    ratings = Path(source) if source else data / "ratings.csv"
    figures = Journal(storage / FIGURES_FILE)
    as_asked = preset == Settings.preset and all(text.startswith("tracking.") for text in assignments)
    name = "pipeline" if share == 1 and source is None and as_asked else "pipeline-part"

    def write() -> None:
        done = done_stages(Journal(storage / JOURNAL_FILE))
        by_stage = {row["stage"]: row for row in figures.rows()}
        rows = [_row(one, by_stage.get(one.name, {})) for one in done]
        print(write_record(name, rows, headlines(rows) if name == "pipeline" else [], out), flush=True)
        if rows:
            print(rows[-1], flush=True)

    @contextmanager
    def watched(stage: str) -> Iterator[None]:
        write()
        memory = PeakMemory()
        with memory:
            yield
        what, least_s = floor(stage, storage, ratings)
        row = {"stage": stage, "peak_gib": memory.peak / 2**30, "floor": what, "floor_s": least_s}
        figures.append(row)

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    run_pipeline(asked, data, storage, around=watched, say=say)
    write()


def _row(done: Done, figures: dict[str, Any]) -> dict[str, Any]:
    """Return a stage as a row of the record."""
    least_s = figures.get("floor_s")
    share = None if least_s is None or not done.seconds else least_s / done.seconds
    own = {"stage": done.name, "seconds": done.seconds, "attempts": done.attempts}
    return own | {name: figures.get(name) for name in FIGURES} | {"share_of_floor": share}


def headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the two figures of a whole run; nothing if a stage was begun twice or is missing."""
    if [row["stage"] for row in rows] != list(STAGES):
        return []
    if any(row["attempts"] != 1 or row["seconds"] is None or row["peak_gib"] is None for row in rows):
        return []
    seconds = {row["stage"]: row["seconds"] for row in rows}
    text = f"all stages, of which generating the CSV {seconds['generate']:.0f} s and training {seconds['train']:.0f} s"
    peak = max(row["peak_gib"] for row in rows)
    return [
        headline("pipeline.minutes_32m", sum(seconds.values()) / 60, "min", GOAL_MINUTES, text),
        headline("pipeline.peak_gib", peak, "GiB", GOAL_GIB, "all processes together, shared pages once"),
    ]


def floor(stage: str, storage: Path, ratings: Path) -> tuple[str | None, float | None]:
    """Return what a stage's floor is in words, and its seconds; None where there is none."""
    if stage == "prepare" and ratings.suffix == ".csv":
        return "Arrow reads the CSV", _timed(lambda: pacsv.read_csv(ratings))
    if stage == "cut":
        return "a copy of what it wrote", _timed(lambda: _copied(storage / "split"))
    if stage == "drift":
        shards = PreparedFolder.open(storage / "split" / "timeline").shard_paths
        return "Arrow reads the timeline", _timed(lambda: [pq.read_table(path) for path in shards])
    if stage in ("train", "rank", "recommend") and "H100" in device_name():
        return f"model on an {H100.name}", _model_floor_s(stage, storage)
    return None, None


def _model_floor_s(stage: str, storage: Path) -> float:
    """Return the floor of a stage in which the model works, from what it worked on."""
    run = RunFolder.open(storage / "run")
    config: RunConfig = run.config()
    name = "timeline" if stage == "recommend" else "past"
    manifest = PreparedFolder.open(storage / "split" / name).manifest
    steps = read_json(run.path / RESULT_FILE)["training"]["global_step"]
    a_step = manifest.interactions * config.train.epochs / max(steps, 1)
    if stage == "train":
        return float(steps * floor_s(config, manifest.items, round(a_step), H100))
    encoded = FORWARD_SHARE * floor_s(config, 1, manifest.interactions, H100)
    scores = 2.0 * manifest.users * manifest.items * config.model.dim / H100.products
    return encoded + scores


def _copied(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".copy-") as scratch:
        shutil.copytree(folder, Path(scratch) / "copy")


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
