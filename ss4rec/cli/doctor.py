"""`ss4rec doctor`: look at this machine, or at a cluster, before the first run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ss4rec.cli.steps import say_next
from ss4rec.errors import UsageError

if TYPE_CHECKING:
    from ss4rec.doctor.machine import Check

MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as a JSON list.")
@click.option("--storage", default="runs", show_default=True, help="Folder that runs go to.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Training workers.")
@click.option(
    "--cluster",
    is_flag=True,
    help="Look at every node: versions, kernels, GPUs, shared storage (--storage, absolute), clocks, memory, network, "
    "and whether strangers reach the Jobs API. With --address http://HEAD:8265 it runs as a job there.",
)
@click.option(
    "--address",
    help="Ray cluster to look at (host:6379, auto, local, http://host:8265); default as in `ss4rec train`.",
)
@click.option("--all", "everything", is_flag=True, help="Show every check, not only what needs a look.")
def doctor_command(
    as_json: bool, storage: str, workers: int, cluster: bool, address: str | None, everything: bool
) -> int:
    """Check versions, machine, Ray, kernels and storage; exit code 1 if a check fails.

    Says which Ray a command would use, and why.
    """
    asked = address or os.environ.get("RAY_ADDRESS", "")
    if cluster and asked.startswith("http"):
        return _as_job(asked, as_json, storage)
    if cluster:
        checks = _look_at_nodes(address or None, storage)
    else:
        from ss4rec.doctor.machine import diagnose

        checks = diagnose(storage=storage, workers=workers, address=address or None)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _show(checks, everything or cluster)
    failed = any(check.status == "fail" for check in checks)
    if not (failed or as_json or cluster):
        say_next("ss4rec demo", "ss4rec data prepare --source YOUR.csv --out data/yours")
    return int(failed)


def _look_at_nodes(address: str | None, storage: str) -> list[Check]:
    """Connect to Ray and run the checks of every node."""
    from ss4rec.cluster import connect
    from ss4rec.doctor.nodes import diagnose_cluster

    if not storage.startswith("/"):
        raise UsageError(f"--storage {storage}: nodes have different working folders; give an absolute path")
    with connect.cluster(address):
        return diagnose_cluster(storage)


def _as_job(address: str, as_json: bool, storage: str) -> int:
    """Ask the Jobs API as a stranger from here, then run the checks on the cluster as a job.

    A stranger who is let in is a failure, whatever the job finds.
    """
    from ss4rec.cli.submit import submit_command
    from ss4rec.doctor.nodes import Probe
    from ss4rec.doctor.rules import stranger

    check = stranger(address, {"this machine": Probe().status_without_token(address)}, "this machine")
    _show([check])
    options = ["--cluster", "--storage", storage, *(["--json"] if as_json else [])]
    code = submit_command.main(["doctor", "--address", address, "--", *options], standalone_mode=False)
    return code or int(check.status == "fail")


def _show(checks: Sequence[Check], everything: bool = True) -> None:
    """Print the checks as a table; without `everything` a group in which all is well is one line."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title="ss4rec doctor", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "check", "state", "found"):
        table.add_column(heading, overflow="fold")
    group = ""
    for check in checks if everything else _short(checks):
        advice = f"\n[italic]-> {escape(check.advice)}[/]" if check.advice else ""
        shown = "" if check.group == group else f"[bold]{check.group}[/]"
        table.add_row(shown, escape(check.name), MARKS[check.status], escape(check.found) + advice)
        group = check.group
    console.print(table)
    counts = {status: sum(check.status == status for check in checks) for status in MARKS}
    more = "" if everything else "; --all shows every check"
    console.print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed{more}")


def _short(checks: Sequence[Check]) -> Iterator[Check]:
    """Yield what needs a look, which Ray is used, and a line for the rest of each group."""
    from itertools import groupby

    from ss4rec.doctor.machine import Check

    for group, members in groupby(checks, key=lambda check: check.group):
        several = list(members)
        shown = [check for check in several if check.status != "ok" or check.group == "ray"]
        rest = [check for check in several if check not in shown]
        yield from shown
        if rest:
            first = ", ".join(f"{check.name} {check.found}" for check in rest[:3])
            name = rest[0].name if len(rest) == 1 else f"{len(rest)} checks"
            yield Check(group, name, "ok", rest[0].found if len(rest) == 1 else first)
