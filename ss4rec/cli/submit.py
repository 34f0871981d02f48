"""`ss4rec submit`: run a verb as a job on a Ray cluster and follow it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ss4rec.cli.steps import say_next
from ss4rec.cluster import submit
from ss4rec.cluster.secrets import is_secret
from ss4rec.errors import UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


@click.command("submit", context_settings={"ignore_unknown_options": True})
@click.argument("verb", type=click.Choice(submit.VERBS))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--address",
    help="Dashboard of the cluster, as http://HEAD:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, local.",
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Environment variable of the job; NAME alone takes its value from here, as keys and tokens must.",
)
@click.option("--no-wait", is_flag=True, help="Return when the job is accepted.")
def submit_command(
    verb: str, options: tuple[str, ...], address: str | None, env: tuple[str, ...], no_wait: bool
) -> int:
    """Run VERB with OPTIONS as a job; the exit code is the job's. Ctrl-C asks whether the job shall stop too.

    OPTIONS are those of the verb, after `--`; their paths are paths of the cluster and absolute:

        ss4rec submit train --address http://HEAD:8265 -- --data /mnt/ml-1m --storage /mnt/runs
    """
    command = submit.entrypoint(verb, options)
    variables = _variables(env)
    with submit.project_root(options) as root, submit.packed(root) as package:
        folders = ", ".join(f"{name} {size / 1024:.0f} KiB" for name, size in package.folders[:5])
        click.echo(
            f"working directory: {package.files} files, {package.size_bytes / 2**20:.2f} MiB ({folders})"
        )
        submit.check_size(package)
        client = submit.connect(address)
        job_id = submit.start(client, command, package, variables, submit.job_name(verb, options))
    click.echo(f"job {job_id}: {command}")
    by_hand = f"--address {client.get_address()} {job_id}"
    if not no_wait:
        click.echo(f"  ray job logs --follow {by_hand}")
    click.echo(f"  ray job stop {by_hand}")
    if no_wait:
        say_next(f"ray job logs --follow {by_hand}")
        return 0
    return _watch(client, job_id)


def _watch(client: JobSubmissionClient, job_id: str) -> int:
    """Show the job's log until it ends; Ctrl-C asks whether the job shall stop as well."""
    from ss4rec.cli.follow import JobLog

    try:
        with JobLog(job_id) as log:
            for lines in submit.follow(client, job_id):
                log.write(lines)
    except KeyboardInterrupt:
        if click.confirm(f"\nStop job {job_id} on the cluster as well?", default=False):
            client.stop_job(job_id)
            click.echo(f"job {job_id} is being stopped")
        else:
            click.echo(f"job {job_id} goes on")
        return 130
    code = submit.exit_code(client, job_id)
    info = client.get_job_info(job_id)
    reason = info.message.splitlines()[0] if code and info.message else ""  # the log comes again behind it
    click.echo(f"job {job_id}: {info.status}" + (f" ({reason})" if reason else ""))
    return code


def _variables(env: tuple[str, ...]) -> dict[str, str]:
    """Parse NAME=VALUE pairs, and names whose value is this process's own.

    Raises:
        UsageError: for a name that is not set here, and for a secret that every user of this machine could read in the
            process list.
    """
    variables = {}
    for text in env:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--env {text}: write NAME=VALUE, or NAME to pass on its value")
        if equals and is_secret(name):
            raise UsageError(
                f"--env {name}=...: a secret on the command line is in the process list and the shell's history; "
                f"set {name} in this shell and write --env {name}"
            )
        if not equals and name not in os.environ:
            raise UsageError(
                f"--env {name}: {name} is not set in this shell; set it, or write --env {name}=VALUE"
            )
        variables[name] = value if equals else os.environ[name]
    return variables
