"""`ss4rec compare`: which of several runs is better, for whom, and whether it is luck."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ss4rec.cli.steps import quoted, say_next
from ss4rec.evaluation.evaluator import Seen, TargetTime
from ss4rec.train.status import shown


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--evaluation", "name", default="test", show_default=True, help="Which evaluation of the runs.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME@K",
    help="Metrics to compare, the most important one first. Default: NDCG@10, HR@10 and MRR@10.",
)
@click.option("--seen", type=click.Choice(["kept", "excluded"]), help="Default: as the protocol says.")
@click.option("--target-time", type=click.Choice(["known", "unknown"]), help="Default: as the protocol says.")
@click.option("--all-pairs", is_flag=True, help="Compare every pair, not only each with the first.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("comparison.html"),
    show_default=True,
    help="The page to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def compare_command(
    runs: tuple[Path, ...],
    name: str,
    metrics: tuple[str, ...],
    seen: Seen | None,
    target_time: TargetTime | None,
    all_pairs: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Compare RUNS, paired by user, and write a page.

    Runs that differ in their seed alone are one recipe; if all do, each is compared with the first. One RUN alone is
    compared with its best baseline. Runs that were ranked on different users or protocols are refused.
    """
    from ss4rec.evaluation.compare import compare_runs
    from ss4rec.evaluation.compare_page import about, comparison_json, comparison_page, verdicts
    from ss4rec.evaluation.saved import load_evaluation
    from ss4rec.report import write_page

    own = load_evaluation(runs[0], name).setting
    setting: tuple[Seen, TargetTime] = (seen or own[0], target_time or own[1])
    found = compare_runs(runs, name=name, setting=setting, metrics=metrics, all_pairs=all_pairs)
    write_page(out, comparison_page(found))
    if as_json:
        click.echo(json.dumps(comparison_json(found) | {"page": str(out)}))
        return
    from ss4rec.cli.results import show_comparison

    show_comparison(found, verdicts(found), about(found))
    click.echo(f"page: {shown(out)}")
    say_next(f"ss4rec registry promote registry/NAME --run {quoted(runs[0])} --reason TEXT")
