"""Submit a verb as a job to a Ray cluster: pack the project, look at the package, upload, follow.

The package is the very zip that is uploaded, made by Ray's own packer (.gitignore and .rayignore hold), so the size
that a user sees is the size that counts. Ray is imported late, for a quick `--help`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ss4rec.cluster import ray_private
from ss4rec.cluster.join import choose
from ss4rec.cluster.secrets import HOOK, NAME, SENT, is_secret
from ss4rec.errors import ResourceError, UsageError
from ss4rec.runs.provenance import COMMIT_VARIABLE, git_commit

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

VERBS = ("prepare", "train", "tune", "evaluate", "recommend", "score", "similar", "drift", "doctor", "watch")
LIMIT_BYTES = 100 * 2**20
"""Largest upload that a cluster's dashboard accepts (Ray's DASHBOARD_CLIENT_MAX_SIZE)."""
_API_VARIABLE = "RAY_API_SERVER_ADDRESS"
STOP_WAIT_S = 75
"""How long a job may take to stop: `train.notice.WAIT_S` and the end of its processes."""
PACKAGES = ("ss4rec", "ray_jobs", "tuning", "drift", "cluster")
"""What a job needs of an installation."""
FILE_OPTIONS = ("--space", "--events", "--preset")
"""Options whose files travel with the job."""
PATH_OPTIONS = (
    "--data",
    "--storage",
    "--run",
    "--out",
    "--source",
    "--retrained",
    "--histories",
    "--allow",
    "--deny",
    "--from",
    "--config",
    "--users",
    "--item-features",
    "--pairs",
)
STORED_VERBS = ("train", "tune")
"""Verbs whose --storage has a relative default, which a job would lose."""


@dataclass(frozen=True)
class Package:
    """The zipped project."""

    path: Path
    size_bytes: int
    files: int
    folders: tuple[tuple[str, int], ...]
    """Folders (two levels deep) and their zipped bytes, largest first."""


@contextmanager
def project_root(options: Sequence[str] = ()) -> Iterator[Path]:
    """Yield the folder that travels: the checkout that this package was imported from, or a copy of an installed one.

    From a checkout everything travels that its ignore files leave, so a relative --space is found in the job. From an
    installation the packages travel, with the files that `options` name by a relative path.
    """
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        yield root
        return
    with TemporaryDirectory(prefix="ss4rec-project-") as folder:
        for name in PACKAGES:
            shutil.copytree(root / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        for _, value in _values(options, FILE_OPTIONS):
            file = Path(value)
            if file.is_file() and not file.is_absolute() and ".." not in file.parts:
                (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, Path(folder) / file)
        yield Path(folder)


@contextmanager
def packed(root: Path) -> Iterator[Package]:
    """Zip `root` as Ray would, for the length of the block.

    Raises:
        UsageError: if the ignore files leave nothing of it.
    """
    with TemporaryDirectory(prefix="ss4rec-submit-") as folder:
        target = Path(folder) / "working_dir.zip"
        ray_private.pack_folder(root, target)
        sizes: Counter[str] = Counter()
        with zipfile.ZipFile(target) as archive:
            entries = archive.infolist()
        for entry in entries:
            parts = Path(entry.filename).parts
            sizes["/".join(parts[: min(2, len(parts) - 1)]) or "."] += entry.compress_size
        if not entries:
            raise UsageError(f"nothing of {root} would travel; look at its .gitignore and .rayignore")
        yield Package(target, target.stat().st_size, len(entries), tuple(sizes.most_common()))


def check_size(package: Package) -> None:
    """Refuse a package that the cluster would refuse after the upload.

    Raises:
        UsageError: with the size and what to exclude.
    """
    if package.size_bytes <= LIMIT_BYTES:
        return
    largest = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in package.folders[:3])
    raise UsageError(
        f"the working directory packs to {package.size_bytes / 2**20:.0f} MiB and a cluster takes "
        f"{LIMIT_BYTES / 2**20:.0f} MiB at most; name what the job does not need in .rayignore. Largest: {largest}"
    )


def entrypoint(verb: str, options: Sequence[str]) -> str:
    """Return the job's command.

    A job runs in a copy of the working directory that is deleted with the session, so paths must be absolute.

    Raises:
        UsageError: a path option is relative, or --storage is left to its relative default.
    """
    for name, value in _values(options, PATH_OPTIONS):
        if not value.startswith("/") and "://" not in value:
            raise UsageError(
                f"{name} {value}: a job runs in a throw-away copy of this folder; give an absolute path on the "
                "cluster's shared storage"
            )
    if verb in STORED_VERBS and not list(_values(options, ("--storage",))):
        raise UsageError(
            f"{verb} needs --storage with an absolute path on the cluster's shared storage: the default (runs) lies "
            "in the job's throw-away copy of this folder"
        )
    return shlex.join(["python", "-m", f"ray_jobs.{verb}", *options])


def _values(options: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of these names with their values, written as `--name value` or `--name=value`."""
    for option, following in zip(options, [*options[1:], ""], strict=False):
        name, equals, value = option.partition("=")
        if name in names:
            yield name, value if equals else following


def job_name(verb: str, options: Sequence[str]) -> str:
    """Return a job id that says in Ray's dashboard what runs: verb, name of run or data, and a random end."""
    given = dict(_values(options, ("--name", "--run", "--data", "--source", "--out")))
    what = given.get("--name") or Path(next(iter(given.values()), "")).name
    return "-".join([verb, *re.findall(r"[A-Za-z0-9]+", what)])[:60] + f"-{uuid.uuid4().hex[:6]}"


def connect(address: str | None) -> JobSubmissionClient:
    """Return a client of the cluster's Jobs API.

    Args:
        address: `http://host:8265`, or a cluster's `host:port`; None takes RAY_API_SERVER_ADDRESS, RAY_ADDRESS or the
            cluster of the last `ray start` on this machine.

    Raises:
        ResourceError: if none answers or it wants a token.
        UsageError: if the address is of another form.
    """
    import ray.exceptions
    from ray.job_submission import JobSubmissionClient

    ray_private.send_token(new_cluster=False)
    asked = address or os.environ.get(_API_VARIABLE) or os.environ.get("RAY_ADDRESS")
    loopback = False
    if not asked or "://" not in asked:  # a cluster's own address: Ray asks it for its dashboard's
        target = choose(asked)
        if target.starts_local:
            raise ResourceError(
                f"no cluster to submit to: {target.reason}. Give --address http://HEAD:8265, or start one here with "
                "`cluster/local.sh start`"
            )
        asked, loopback = target.address, target.loopback
    try:
        with ray_private.on_loopback(loopback), _variable(_API_VARIABLE, asked):
            return JobSubmissionClient(asked)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ResourceError(
            f"no Jobs API answers at {asked}: {reason}. Check --address (the dashboard, as "
            "http://HEAD:8265); with 401 or an authentication error put the head's token into ~/.ray/auth_token or "
            "RAY_AUTH_TOKEN (docs/clusters.md)"
        ) from None


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the length of the block.

    Ray's client takes RAY_ADDRESS instead of the address that it is given, unless this variable says otherwise.
    """
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def start(
    client: JobSubmissionClient,
    command: str,
    package: Package,
    env: dict[str, str],
    job_id: str | None = None,
) -> str:
    """Upload the package, start the job and return its id; secrets do not travel as Ray's variables.

    Args:
        client: of the cluster.
        command: from `entrypoint`.
        package: what travels.
        env: variables of the job.
        job_id: from `job_name`; None lets Ray make one.
    """
    if env.get("SS4REC_LOG") == "json":
        # Ray would keep one of several workers' lines that differ in numbers alone; log collectors want them all.
        env = {"RAY_DEDUP_LOGS": "0"} | env
    # Ray ends a job 3 s after it asked it to stop; a checkpoint of a large model takes longer.
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)} | env
    if commit := git_commit():
        env = {COMMIT_VARIABLE: commit} | env  # what is uploaded has no git folder
    sent = {name: value for name, value in env.items() if is_secret(name)}
    shown = {name: value for name, value in env.items() if name not in sent}
    runtime_env = {"working_dir": str(package.path), "env_vars": shown}
    metadata = {"command": command[:500]}  # the dashboard cuts the entry point
    if sent:
        runtime_env["worker_process_setup_hook"] = HOOK
        metadata |= {SENT: json.dumps(sent), NAME: uuid.uuid4().hex}
        shown[NAME] = metadata[NAME]
    return client.submit_job(
        entrypoint=command, runtime_env=runtime_env, metadata=metadata, submission_id=job_id
    )


def follow(client: JobSubmissionClient, job_id: str) -> Iterator[str]:
    """Yield the job's log as it grows, until the job ends."""
    with asyncio.Runner() as runner:
        stream = client.tail_job_logs(job_id)
        while True:
            try:
                yield runner.run(anext(stream))  # type: ignore[arg-type]
            except StopAsyncIteration:
                return


def exit_code(client: JobSubmissionClient, job_id: str) -> int:
    """Return the ended job's exit code: its command's own, 130 if it was stopped, else 1 with Ray's message."""
    info = client.get_job_info(job_id)
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        return 130
    return info.driver_exit_code or 1
