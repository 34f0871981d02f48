"""CPU seconds of a training, a ranking and a drift report against those of another checkout, in turns.

    python -m benchmarks.cost --other CHECKOUT --data FOLDER --timeline FOLDER [--turns 5] [--only train evaluate drift]

FOLDER of --data is a prepared one, that of --timeline what `ss4rec data split` wrote; both by the other checkout, so that
both codes can read them. Each verb is its command line, as a user runs it, with Ray and imports: seconds of user and
system of the command and of all that it starts, which Ray's workers are. A process counts as long as it lives; it is
looked at ten times a second and once more when the command has ended. The two codes take turns, and a ratio is the median
of those of the turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from benchmarks.record import headline, write_record

ROOT = Path(__file__).parents[1]
MARK = "SS4REC_COST"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
VERBS = ("train", "evaluate", "drift")


def seconds_by_process(mark: str) -> dict[int, float]:
    """Return the CPU seconds so far of each living process whose environment has the mark."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                found[int(folder.name)] = (int(fields[11]) + int(fields[12])) * TICK_S
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def cpu_s(code: Path, words: list[str]) -> float:
    """Run `ss4rec WORDS` with the code of a checkout and return the CPU seconds of all its processes."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, "PYTHONPATH": str(code), MARK: mark}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "ss4rec.cli", *words],
            cwd=code,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        seen: dict[int, float] = {}
        while process.poll() is None:
            seen |= seconds_by_process(mark)
            time.sleep(0.1)
        seen |= seconds_by_process(mark)
        if process.returncode not in (0, 10):  # 10: drift was found
            said.seek(0)
            raise RuntimeError(f"{code}: ss4rec {' '.join(words)}: {said.read().decode()[-2000:]}")
    return sum(seen.values())


def words_of(verb: str, options: argparse.Namespace, run: Path, out: Path) -> list[str]:
    """Return the command line of a verb; `run` was trained by the other checkout, `out` is an empty folder."""
    data, timeline = str(options.data.resolve()), str(options.timeline.resolve())
    fields = [word for text in options.set for word in ("--set", text)]
    if verb == "train":
        return [
            "train",
            "--data",
            data,
            "--preset",
            "ml_1m_cpu",
            "--storage",
            str(out),
            "--name",
            "run",
            *fields,
        ]
    if verb == "evaluate":
        return ["evaluate", "--run", str(run), "--data", data]
    return ["drift", "--data", timeline, "--out", str(out / "report"), "--set", "window=quarter"]


def main() -> None:
    """Measure every verb and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--timeline", type=Path, required=True, help="folder of `ss4rec data split`")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=VERBS, default=VERBS)
    parser.add_argument("--set", action="append", default=[], help="field of the training, FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    codes = {"here": ROOT, "other": options.other.resolve()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first"
        if "evaluate" in options.only:
            cpu_s(codes["other"], words_of("train", options, first, first))
        for verb in options.only:
            found: dict[str, list[float]] = {place: [] for place in codes}
            for turn in range(options.turns):
                for place in sorted(codes, reverse=bool(turn % 2)):
                    out = Path(folder) / f"{verb}-{turn}-{place}"
                    found[place].append(cpu_s(codes[place], words_of(verb, options, first / "run", out)))
                    print(f"{verb} {turn} {place}: {found[place][-1]:.2f} s", flush=True)
            medians = {
                f"{place}_cpu_s": round(statistics.median(values), 2) for place, values in found.items()
            }
            ratio = statistics.median(a / b for a, b in zip(found["here"], found["other"], strict=True))
            rows.append({"name": verb, **medians, "turns": options.turns, "ratio": round(ratio, 3)})
            print(rows[-1], flush=True)
    figures = [
        headline(f"cost.{row['name']}_cpu_ratio", row["ratio"], "ratio", 1.05, "the other checkout")
        for row in rows
    ]
    print(write_record("cost", rows, figures, options.out))


if __name__ == "__main__":
    main()
