"""A training step of `ml_1m_cpu` on a CPU: this tree against another one, in turn, and what each part of a step takes.

    python -m benchmarks.cpu_step --before TREE [--threads 2] [--rounds 12] [--out FOLDER]

TREE is a checkout of an earlier commit (`git worktree add ../before COMMIT`). Each tree runs in a process of its own; one
step here, one step there, so that other work on the machine meets both. Figures are medians of seconds by the clock, and
the ratio is that of the medians. Windows have lengths like ML-1M's, items and gaps are random.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ITEMS = 3416
CHILD = "from runpy import run_path; run_path({path!r}, run_name='step')"


def serve_steps() -> None:
    """Do one step for each line of standard input and print its seconds: all, encode, loss, backward, optimizer."""
    import torch

    from ss4rec.model.losses import Repeats, cross_entropy
    from ss4rec.model.segments import Segments
    from ss4rec.model.ss4rec import SS4Rec
    from ss4rec.presets import preset

    config = preset("ml_1m_cpu")
    torch.set_num_threads(int(os.environ["STEP_THREADS"]))
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.empty(config.train.batch_size).log_normal_(5.2, 0.4, generator=generator)
    lengths_S = lengths.clamp(20, config.data.max_len).long().tolist()
    tokens = sum(lengths_S)
    items_T, gaps_T = torch.randint(1, ITEMS + 1, (tokens,)), torch.rand(tokens) * 1e4
    model = SS4Rec(config.model, ITEMS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in sys.stdin:
        marks = [time.perf_counter()]
        optimizer.zero_grad()
        segments = Segments.from_lengths(lengths_S)
        hidden_TD = model.encode(items_T, gaps_T, segments)
        marks.append(time.perf_counter())
        assert model.repeat_logit is not None
        repeats = Repeats(items_T, segments, model.repeat_logit)
        loss = cross_entropy(
            hidden_TD, model.item_matrix(), items_T, chunk_tokens=config.loss.chunk_tokens, repeats=repeats
        )
        marks.append(time.perf_counter())
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        marks.append(time.perf_counter())
        optimizer.step()
        marks.append(time.perf_counter())
        parts = [after - before for before, after in zip(marks, marks[1:], strict=False)]
        row = [marks[-1] - marks[0], *parts, tokens, float(loss.detach() / tokens)]
        print(json.dumps(row), flush=True)


def start(tree: Path, threads: int) -> subprocess.Popen[str]:
    """Start a process that does steps with the code of `tree`."""
    environment = os.environ | {"PYTHONPATH": str(tree), "STEP_THREADS": str(threads)}
    command = [sys.executable, "-c", CHILD.format(path=str(Path(__file__).resolve()))]
    return subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def one_step(process: subprocess.Popen[str]) -> list[float]:
    """Ask for a step and return what was measured."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a process with steps ended; its message is above")
    row: list[float] = json.loads(line)
    return row


def compare(trees: dict[str, Path], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each tree with medians over the rounds; two rounds before them are not counted."""
    processes = {name: start(tree, threads) for name, tree in trees.items()}
    measured: dict[str, list[list[float]]] = {name: [] for name in trees}
    try:
        for number in range(rounds + 2):
            for name, process in processes.items():
                row = one_step(process)
                if number >= 2:
                    measured[name].append(row)
                print(f"{name:8s}{1e3 * row[0]:8.1f} ms  loss {row[-1]:.5f}", flush=True)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    names = ("step_ms", "encode_ms", "loss_ms", "backward_ms", "optimizer_ms")
    rows = []
    for name, lines in measured.items():
        medians = [statistics.median(line[part] for line in lines) for part in range(5)]
        row = {key: round(1e3 * value, 2) for key, value in zip(names, medians, strict=True)}
        rate = round(lines[0][5] / medians[0])
        rows.append({"tree": name, "threads": threads, "targets_per_s": rate, "loss": lines[-1][-1]} | row)
    return rows


def main() -> None:
    """Compare, print and write the record `cpu.speedup`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trees = {"before": options.before.resolve(), "after": ROOT}
    rows = compare(trees, options.threads, options.rounds)
    ratio = round(rows[1]["targets_per_s"] / rows[0]["targets_per_s"], 3)
    for row in rows:
        print(row)
    print(f"ratio {ratio}")
    if options.out:
        from benchmarks.record import headline, write_record

        lines = [headline("cpu.speedup", ratio, "times", 2.0, f"the step of {options.before.name}")]
        print(write_record("cpu_step", rows, lines, options.out))


if __name__ == "__main__":
    main()
elif __name__ == "step":
    serve_steps()
