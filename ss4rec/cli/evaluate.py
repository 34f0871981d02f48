"""`ss4rec evaluate`: rank all items for every user with a trained run, beside popularity."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ss4rec.cli.options import FolderOrUri, data_folder, protocol_option, resolve_protocol, set_option
from ss4rec.cli.steps import quoted
from ss4rec.data.batches.windows import Split
from ss4rec.io.paths import AnyPath


@click.command("evaluate")
@click.option("--run", "run_dir", type=click.Path(path_type=Path), required=True, help="A run folder.")
@click.option("--data", type=FolderOrUri(), required=True, help="The prepared folder it was trained on.")
@click.option("--split", type=click.Choice(["test", "valid"]), default="test", show_default=True)
@protocol_option("Test by another protocol than the run's own (it must train on the same events)")
@set_option("Change a field of the protocol, as in --set protocol.targets=successive.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Models that rank at a time."
)
@click.option("--gpu", is_flag=True, help="Rank on GPUs, one for each worker.")
@click.option(
    "--address", help="Ray cluster; default: RAY_ADDRESS, a running local cluster, or a new local one."
)
@click.option(
    "--all", "everything", is_flag=True, help="Show all settings of the ranking, not only the protocol's."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def evaluate_command(
    run_dir: Path,
    data: AnyPath,
    split: Split,
    protocol_name: str | None,
    assignments: tuple[str, ...],
    workers: int,
    gpu: bool,
    address: str | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Rank all items for every user with the best checkpoint of a run, beside baselines.

    HR, NDCG and MRR at 5, 10 and 20 in four settings: seen items kept or excluded, the target's time known or not.
    """
    from ss4rec.runs.folder import RunFolder

    run, folder = RunFolder.open(run_dir.resolve()), data_folder(data)
    own = run.config().protocol
    protocol = resolve_protocol(own, protocol_name, assignments)
    from ss4rec.cluster.connect import cluster
    from ss4rec.evaluation.report import evaluate_run
    from ss4rec.train.status import announce

    with cluster(address):
        announce("ranking ...")
        results = evaluate_run(run.path, folder, split=split, workers=workers, use_gpu=gpu, protocol=protocol)
    if as_json:
        click.echo(json.dumps(results))
        return
    from ss4rec.cli.results import show_results

    then = (
        f"ss4rec show {quoted(run_dir)}",
        f"ss4rec recommend --run {quoted(run_dir)} --data {quoted(data)} --out lists",
    )
    show_results(f"{run.path.name}: {split} items", results, everything=everything, then=then)
