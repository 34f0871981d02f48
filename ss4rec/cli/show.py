"""`ss4rec show`: what a run was trained on, how good it is, and for whom."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ss4rec.cli.steps import quoted, say_next
from ss4rec.train.status import shown


@click.command("show")
@click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--evaluation", "name", help="Which evaluation of the run. Default: test.")
@click.option(
    "--metric", default="NDCG@10", show_default=True, metavar="NAME@K", help="By which segments are measured."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def show_command(run_dir: Path, name: str | None, metric: str, as_json: bool) -> None:
    """Show a RUN in the terminal, and write its page RUN/report.html anew."""
    from ss4rec.evaluation.run_page import facts, headline, saved_segments, speed, write_run_page
    from ss4rec.evaluation.saved import load_evaluation, saved_evaluations
    from ss4rec.runs.folder import RunFolder

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
