"""`ss4rec export torch|onnx`: a run as programs for processes without ss4rec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ss4rec.cli.steps import quoted, say_next

_run = click.option("--run", "run_dir", type=click.Path(path_type=Path), required=True, help="A run folder.")
_out = click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command("torch")
@_run
@_out
@click.option(
    "--most-events",
    type=click.IntRange(min=2, max=65536),
    default=1024,
    show_default=True,
    help="Longest history that the encoder takes.",
)
@_json
def torch_command(run_dir: Path, out: Path, most_events: int, as_json: bool) -> None:
    """Write encoder, state step and scores for `torch.export.load`, each compared with the model."""
    from ss4rec.export.torch_export import export_torch

    _say(export_torch(run_dir, out, most_events), run_dir, out, as_json)


@click.command("onnx")
@_run
@_out
@_json
def onnx_command(run_dir: Path, out: Path, as_json: bool) -> None:
    """Write state step and scores as ONNX, each compared with the model in onnxruntime."""
    from ss4rec.export.onnx_export import export_onnx

    _say(export_onnx(run_dir, out), run_dir, out, as_json)


def _say(facts: dict[str, Any], run_dir: Path, out: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(facts))
        return
    found = ", ".join(f"{name} ({error:.0e})" for name, error in facts["largest_error"].items())
    click.echo(
        f"{out}: {found}; in brackets the largest difference to the model. export.json says how to use them."
    )
    say_next(f"ss4rec export card --run {quoted(run_dir)} --out {quoted(out)}")
