"""Draws the learning curves of the quality benchmark: `python -m benchmarks.quality.curves CURVES.json OUT.png [ROW ..]`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import click
from matplotlib.figure import Figure

PUBLISHED = 0.2022


def draw(source: Path, out: Path, names: list[str]) -> None:
    """Draw validation NDCG@10 (seen kept) over seconds and over epochs, a line a run, a colour a row."""
    record = json.loads(source.read_text())
    groups: dict[str, list[list[list[float]]]] = defaultdict(list)
    for run, curve in record["curves"].items():
        name = run.rpartition("-")[0]
        if not names or name in names:
            groups[name].append(curve)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, column, label in ((axes[0], 1, "seconds of training"), (axes[1], 0, "epochs")):
        for number, (name, curves) in enumerate(groups.items()):
            for curve in curves:
                axis.plot(
                    [line[column] for line in curve],
                    [line[3] for line in curve],
                    color=f"C{number % 10}",
                    linestyle="-" if number < 10 else "--",
                    linewidth=1.1,
                    label=name if curve is curves[0] else None,
                )
        axis.axhline(PUBLISHED, color="#888", linewidth=0.8, linestyle=":")
        axis.set_xlabel(label)
        axis.grid(color="#eee")
    axes[0].set_ylabel("validation NDCG@10, seen items kept")
    figure.legend(*axes[1].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    figure.savefig(out, dpi=144)


@click.command(help=__doc__)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("rows", nargs=-1)
def main(source: Path, out: Path, rows: tuple[str, ...]) -> None:
    """Draw the rows, by default all."""
    draw(source, out, list(rows))


if __name__ == "__main__":
    main()
