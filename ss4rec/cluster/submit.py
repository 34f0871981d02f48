"""Submit a verb as a job to a Ray cluster: pack the project, look at the package, upload, follow.

The package is the very zip that is uploaded, made by Ray's own packer (.gitignore and .rayignore hold), so the size
that a user sees is the size that counts. Ray is imported late, for a quick `--help`.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ss4rec.cluster.ray_private import pack_folder
from ss4rec.cluster.secrets import HOOK, NAME, SENT, is_secret
from ss4rec.errors import ResourceError, UsageError
from ss4rec.runs.provenance import COMMIT_VARIABLE, git_commit

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

VERBS = ("prepare", "train", "tune", "evaluate", "drift", "doctor")
LIMIT_BYTES = 100 * 2**20
"""Largest upload that a cluster's dashboard accepts (Ray's DASHBOARD_CLIENT_MAX_SIZE)."""
PATH_OPTIONS = ("--data", "--storage", "--run", "--out", "--source", "--retrained")
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


def project_root() -> Path:
    """Return the folder that travels: the checkout that this package was imported from.

    Raises:
        UsageError: if it is not a checkout (an installed copy has no job entry points beside it).
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "ray_jobs").is_dir() or not (root / "pyproject.toml").is_file():
        raise UsageError(f"{root} is no checkout of the project; install with `pip install -e .` from one")
    return root


@contextmanager
def packed(root: Path) -> Iterator[Package]:
    """Zip `root` as Ray would, for the length of the block.

    Raises:
        UsageError: if the ignore files leave nothing of it.
    """
    with TemporaryDirectory(prefix="ss4rec-submit-") as folder:
        target = Path(folder) / "working_dir.zip"
        pack_folder(root, target)
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
    given = dict(_path_options(options))
    for name, value in given.items():
        if not value.startswith("/"):
            raise UsageError(
                f"{name} {value}: a job runs in a throw-away copy of this folder; give an absolute path on the "
                "cluster's shared storage"
            )
    if verb in STORED_VERBS and "--storage" not in given:
        raise UsageError(
            f"{verb} needs --storage with an absolute path on the cluster's shared storage: the default (runs) lies "
            "in the job's throw-away copy of this folder"
        )
    return shlex.join(["python", "-m", f"ray_jobs.{verb}", *options])


def _path_options(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the path options of a command line with their values, written as `--name value` or `--name=value`."""
    for option, following in zip(options, [*options[1:], ""], strict=True):
        name, equals, value = option.partition("=")
        if name in PATH_OPTIONS:
            yield name, value if equals else following


def connect(address: str | None) -> JobSubmissionClient:
    """Return a client of the cluster's Jobs API.

    Args:
        address: `http://host:8265`; None takes RAY_API_SERVER_ADDRESS, RAY_ADDRESS or a cluster on this machine.

    Raises:
        ResourceError: if none answers or it wants a token.
    """
    import ray.exceptions
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ResourceError(
            f"no Jobs API answers at {address or 'the default address'}: {reason}. Check --address (the dashboard, as "
            "http://HEAD:8265); with 401 or an authentication error set RAY_AUTH_MODE=token and put the head's token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN (docs/clusters.md)"
        ) from None


def start(client: JobSubmissionClient, command: str, package: Package, env: dict[str, str]) -> str:
    """Upload the package, start the job and return its id; secrets do not travel as Ray's variables."""
    if env.get("SS4REC_LOG") == "json":
        # Ray would keep one of several workers' lines that differ in numbers alone; log collectors want them all.
        env = {"RAY_DEDUP_LOGS": "0"} | env
    if commit := git_commit():
        env = {COMMIT_VARIABLE: commit} | env  # what is uploaded has no git folder
    sent = {name: value for name, value in env.items() if is_secret(name)}
    shown = {name: value for name, value in env.items() if name not in sent}
    runtime_env = {"working_dir": str(package.path), "env_vars": shown}
    metadata = {}
    if sent:
        runtime_env["worker_process_setup_hook"] = HOOK
        metadata = {SENT: json.dumps(sent), NAME: uuid.uuid4().hex}
        shown[NAME] = metadata[NAME]
    return client.submit_job(entrypoint=command, runtime_env=runtime_env, metadata=metadata)


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
