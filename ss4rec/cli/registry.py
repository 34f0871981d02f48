"""`ss4rec registry list|show|promote|rollback`: which run serves, why, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ss4rec.cli.steps import quoted, say_next
from ss4rec.errors import UsageError

if TYPE_CHECKING:
    from ss4rec.registry import ModelRegistry

_model = click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_reason = click.option("--reason", required=True, help="Why, in a sentence; it stays in the history.")


@click.command("list")
@click.argument("root", type=click.Path(path_type=Path), default=Path("registry"))
@_json
def list_command(root: Path, as_json: bool) -> None:
    """List the models in ROOT (default: registry) and which version of each serves."""
    from ss4rec.registry import models

    rows = [
        {"model": str(one.path), "champion": one.champion_version(), "versions": len(one.versions())}
        for one in models(root)
    ]
    if as_json:
        click.echo(json.dumps({"models": rows}))
        return
    for row in rows:
        serves = "nothing serves" if row["champion"] is None else f"version {row['champion']} serves"
        click.echo(f"{row['model']}: {serves}, {row['versions']} kept")
    if rows:
        say_next(f"ss4rec registry show {quoted(str(rows[0]['model']))}")
    else:
        click.echo(f"no model in {root}")
        say_next(f"ss4rec registry promote {quoted(root / 'NAME')} --run RUN --reason TEXT")


@click.command("show")
@_model
@_json
def show_command(model: Path, as_json: bool) -> None:
    """Show the versions of MODEL (a folder such as registry/films) and what moved its champion."""
    from ss4rec.registry import ModelRegistry

    registry = ModelRegistry.open(model)
    champion, versions, history = registry.champion_version(), registry.versions(), registry.history()
    if as_json:
        plain = [version.model_dump() for version in versions]
        click.echo(json.dumps({"champion": champion, "versions": plain, "history": history}))
        return
    for version in versions:
        mark = "serves" if version.version == champion else ""
        click.echo(f"{version.version:>4} {mark:6} {version.added}  {version.data_name}  {version.run}")
    for row in history:
        before = "" if row["before"] is None else f" (before: {row['before']})"
        click.echo(f"{row['at']}  {row['action']} {row['version']}{before}: {row['reason']}")
    say_next(_after(model, champion, len(versions)))


def _after(model: Path, champion: int | None, versions: int) -> str:
    """Return what one does next with a model: let it serve, or choose what serves."""
    if champion is not None:
        return f"ss4rec serve --registry {quoted(model)}"
    return f"ss4rec registry promote {quoted(model)} --version {versions} --reason TEXT"


@click.command("promote")
@_model
@click.option(
    "--run", "run_dir", type=click.Path(path_type=Path), help="Run to add as a version and let serve."
)
@click.option("--version", "number", type=click.IntRange(min=1), help="Version that is kept already.")
@_reason
@_json
def promote_command(
    model: Path, run_dir: Path | None, number: int | None, reason: str, as_json: bool
) -> None:
    """Let a run, or a version that is kept, serve as MODEL (a folder such as registry/films).

    The run's best checkpoint is kept in MODEL, so the run folder may go afterwards.
    """
    from ss4rec.registry import ModelRegistry

    if (run_dir is None) == (number is None):
        raise UsageError("give either --run RUN or --version N")
    if run_dir is not None:
        registry = ModelRegistry(model)
        number = registry.add(run_dir.resolve()).version
    else:
        registry = ModelRegistry.open(model)
    assert number is not None
    changed = registry.promote(number, reason)
    _said(registry, {"version": number, "changed": changed}, as_json)


@click.command("rollback")
@_model
@click.option("--to", type=click.IntRange(min=1), help="Version to go back to. Default: the champion before.")
@_reason
@_json
def rollback_command(model: Path, to: int | None, reason: str, as_json: bool) -> None:
    """Let the champion before the present one serve as MODEL again."""
    from ss4rec.registry import ModelRegistry

    registry = ModelRegistry.open(model)
    version = registry.rollback(reason, to)
    _said(registry, {"version": version, "changed": True}, as_json)


def _said(registry: ModelRegistry, found: dict[str, Any], as_json: bool) -> None:
    """Tell the trackers, and say what serves now."""
    from ss4rec.registry.aliases import tell_trackers

    told = tell_trackers(registry.folder(found["version"])) if found["changed"] else []
    if as_json:
        click.echo(json.dumps(found | {"model": str(registry.path), "told": told}))
        return
    word = "serves now" if found["changed"] else "serves already"
    click.echo(f"{registry.path}: version {found['version']} {word}")
    for line in told:
        click.echo(line)
    say_next(f"ss4rec serve --registry {quoted(registry.path)}")
