"""`ss4rec show`: what a run was trained on, how good it is, and for whom; or which runs there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ss4rec.cli.steps import quoted, say_next
from ss4rec.train.status import shown

if TYPE_CHECKING:
    from ss4rec.evaluation.run_list import RunLine


@click.command("show")
@click.argument("run_dir", metavar="[RUN|FOLDER]", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--evaluation", "name", help="Which evaluation of the run. Default: test.")
@click.option(
    "--metric", default="NDCG@10", show_default=True, metavar="NAME@K", help="By which segments are measured."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def show_command(run_dir: Path, name: str | None, metric: str, as_json: bool) -> None:
    """Show a RUN in the terminal, and write its page RUN/report.html anew; list the runs of a FOLDER.

    Without an argument the runs in ./runs are listed.
    """
    from ss4rec.evaluation.run_list import list_runs
    from ss4rec.evaluation.run_page import facts, headline, saved_segments, speed, write_run_page
    from ss4rec.evaluation.saved import load_evaluation, saved_evaluations
    from ss4rec.runs.folder import RunFolder

    if not RunFolder(run_dir).exists and (runs := list_runs(run_dir)):
        _show_list(run_dir, runs, as_json)
        return
    run_dir = RunFolder.open(run_dir).path
    names = saved_evaluations(run_dir)
    saved = load_evaluation(run_dir, name or names[0]) if name or names else None
    page = write_run_page(run_dir, name, metric)
    if as_json:
        results = (
            {}
            if saved is None
            else {key: value.model_dump(mode="json") for key, value in saved.results.items()}
        )
        about: dict[str, Any] = {"facts": dict(facts(run_dir)), "speed": dict(speed(run_dir, saved))}
        segments = saved_segments(saved, metric) if saved else []
        about["segments"] = [asdict(row) | {"too_small": row.too_small} for rows in segments for row in rows]
        click.echo(
            json.dumps({"headline": headline(run_dir, saved), **about, "results": results, "page": str(page)})
        )
        return
    from ss4rec.cli.results import show_run

    show_run(run_dir, saved, metric)
    click.echo(f"page: {shown(page)}")
    given = quoted(run_dir)
    say_next(f"ss4rec serve --run {given}" if saved else f"ss4rec evaluate --run {given} --data DATA")


def _show_list(folder: Path, runs: Sequence[RunLine], as_json: bool) -> None:
    from ss4rec.cli.results import show_runs

    if as_json:
        click.echo(json.dumps({"runs": [asdict(run) for run in runs]}))
        return
    show_runs(runs)
    tested = [quoted(folder / run.name) for run in runs if run.test is not None]
    if len(tested) > 1:
        say_next(f"ss4rec compare {tested[0]} {tested[1]}")
    else:
        say_next(f"ss4rec show {quoted(folder / runs[0].name)}")
