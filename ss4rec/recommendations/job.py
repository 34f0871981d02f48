"""The whole job: from a run and histories to a folder of lists, which appears whole; a killed job goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ss4rec.config import RunConfig
from ss4rec.data.prepare.work_folder import WorkFolder
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import MANIFEST_NAME
from ss4rec.data.sources import Rules, Source
from ss4rec.data.sources.columns import GUESSES
from ss4rec.data.sources.features import read_features
from ss4rec.errors import UsageError
from ss4rec.evaluation.lists import ItemFacts
from ss4rec.io.atomic import write_json, write_whole
from ss4rec.io.paths import AnyPath
from ss4rec.io.untrusted import read_json
from ss4rec.protocol.plan import Plan
from ss4rec.recommendations.beside import Beside, Wanted, asked_for, candidates, read_beside, sum_of
from ss4rec.recommendations.filters import Filters, user_items
from ss4rec.recommendations.histories import Histories, index_of, profiles_for, read_histories
from ss4rec.recommendations.items import Items
from ss4rec.recommendations.lists import ListRules
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.output import (
    DataRecord,
    ModelRecord,
    PartRecord,
    RecommendManifest,
    check_free,
    lists_table,
    model_record,
    remove_drafts,
)
from ss4rec.recommendations.parts import PIECE_USERS, PartMaker, Work, pieces_of
from ss4rec.recommendations.rerank import Limit
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.record import data_fingerprint
from ss4rec.runs.under_protocol import run_plan

Runner = Callable[[Work, Sequence[int]], Iterator[PartRecord]]
"""Makes files by their numbers, wherever it runs, and yields their records in any order."""
Progress = Callable[[str], None]
RECORDS = "records"
JOB_FORMAT = 3
"""Changes when files of parts do: what a job of another version left is not used."""


@dataclass(frozen=True)
class FileOfHistories:
    """A file of events of people whom the run need not know."""

    source: Source
    rules: Rules = field(default_factory=Rules)


def recommend_run(
    run_dir: Path,
    out: AnyPath,
    histories: PreparedFolder | FileOfHistories,
    options: RecommendOptions,
    *,
    beside: Beside | None = None,
    device: str = "cpu",
    runner: Runner | None = None,
    overwrite: bool = False,
    progress: Progress = lambda message: None,
) -> RecommendManifest:
    """Write the best items of every user into a folder, which appears whole.

    Killed, the same call goes on with the files that are missing, and the result has the same bytes. A call whose
    result is there already returns its manifest.

    Args:
        run_dir: the run folder.
        out: folder to write; paths may be on remote file systems.
        histories: a prepared folder (its items need not be those of the run), or a file of events.
        options: what is asked for.
        beside: files with lists of items or users.
        device: where models run, `cpu` or `cuda`.
        runner: what makes the files; None: this process.
        overwrite: replace what stands at `out`, and what another unfinished job left.
        progress: is told what is being done.

    Raises:
        DataError: if something cannot be read, or `out` is taken.
        UsageError: for options that do not fit the data.
        ContractError: if the run is trained on meanwhile.
    """
    beside = beside or Beside()
    run = RunFolder.open(run_dir)
    model = model_record(run)
    sums = {name: [sum_of(path) for path in paths] for name, paths in beside.paths.items()}
    plan = {
        "format": JOB_FORMAT,
        "model": model.model_dump(),
        "data": _fingerprint(histories, options),
        "options": options.model_dump(mode="json"),
        "files": sums,
        "device": device.partition(":")[0],
    }
    if not overwrite and (there := _finished(out, plan)):
        progress(f"{out} is complete already")
        return there
    work, again = WorkFolder.enter(out, overwrite, plan, check_free, keep_other=True)
    if again:
        progress(f"going on with {out}")
    try:
        with work.publishing(keep=True):
            manifest = _made(
                run, work, histories, options, beside, model, device, runner or _here(device), progress
            )
            remove_drafts(work.result)
            write_whole(work.result / MANIFEST_NAME, manifest.to_json().encode(), durable=True)
    except (UsageError, KeyboardInterrupt):
        if not any((work.root / RECORDS).iterdir() if (work.root / RECORDS).is_dir() else ()):
            work.discard()  # nothing is lost, and a corrected command is not held up by it
        raise
    return manifest


def _fingerprint(histories: PreparedFolder | FileOfHistories, options: RecommendOptions) -> str:
    """Return what tells the histories from others: of a folder its own fingerprint, of a file its content and reading.

    Raises:
        UsageError: if a file is to be cut as an evaluation cuts.
    """
    if isinstance(histories, PreparedFolder):
        histories.quick_check()
        return data_fingerprint(histories.manifest)
    if options.until != "end":
        raise UsageError(
            f"--until {options.until} is about held-out events of a prepared folder: give --data"
        )
    source, rules = histories.source, asdict(histories.rules)
    rules.pop("latest_s")  # the day of the call
    read = [source.archive.identity(source.files), source.plan.roles, str(source.plan.times), rules]
    return hashlib.sha256(json.dumps(read, sort_keys=True, default=str).encode()).hexdigest()


def _here(device: str) -> Runner:
    """Return what makes files in this process."""
    return lambda work, numbers: PartMaker(work, device).make(numbers)


def _finished(out: AnyPath, plan: Mapping[str, Any]) -> RecommendManifest | None:
    """Return the manifest at `out` if it is the result of this very job."""
    if not (out / MANIFEST_NAME).is_file():
        return None
    found = RecommendManifest.load(out)
    same = {
        "model": found.model.model_dump(),
        "data": found.data.sha256,
        "options": found.options.model_dump(mode="json"),
        "files": {name: [one.sha256 for one in records] for name, records in found.files_given.items()},
        "device": found.device,
    }
    return found if all(plan[name] == value for name, value in same.items()) else None


def _made(
    run: RunFolder,
    work: WorkFolder,
    histories: PreparedFolder | FileOfHistories,
    options: RecommendOptions,
    beside: Beside,
    model: ModelRecord,
    device: str,
    runner: Runner,
    progress: Progress,
) -> RecommendManifest:
    """Make all files that are missing and describe all of them."""
    brought = read_features(beside.items, GUESSES["item"]) if beside.items else None
    known = Items.of(run, histories if isinstance(histories, PreparedFolder) else None, brought)
    data, about = _opened(run, work, histories, known, progress)
    wanted = read_beside(beside, known)
    job, unknown_users = _job(run, work, data, known, options, wanted, model, device)
    done, numbers = [], []
    for number in _numbers(job):
        record = job.done(number)
        if record is None:
            numbers.append(number)
        else:
            done.append(record)
    progress(f"{len(numbers)} of {len(done) + len(numbers)} files of lists are to be made")
    for record in runner(job, numbers) if numbers else ():
        done.append(record)
        progress(f"{len(done)} files of lists are made")
    files = tuple(sorted(done, key=lambda record: record.name))
    nothing = np.zeros((0, 1))
    empty = lists_table(
        data.users["source_id"].combine_chunks().slice(0, 0),
        known.source_id,
        nothing.astype(np.int64),
        nothing.astype(np.float32),
        options.layout,
        np.zeros(0, np.int64) if job.several else None,
    )
    return RecommendManifest(
        model=model,
        data=about,
        options=options,
        files_given=wanted.records,
        unknown_users=unknown_users,
        device=device.partition(":")[0],
        users=sum(record.users for record in files),
        lists=sum(record.lists for record in files),
        items=sum(record.items for record in files),
        columns={column.name: str(column.type) for column in empty.schema},
        files=files,
    )


def _opened(
    run: RunFolder,
    work: WorkFolder,
    histories: PreparedFolder | FileOfHistories,
    items: Items,
    progress: Progress,
) -> tuple[PreparedFolder, DataRecord]:
    """Return the folder of the histories, and what is said about them; a file becomes a folder first."""
    if isinstance(histories, PreparedFolder):
        index_V = index_of(run, items, histories)
        unknown = 0
        if index_V is not None:
            counts_V = np.append(0, histories.items["count"].to_numpy())
            unknown = int(counts_V[index_V == 0].sum())
        manifest = histories.manifest
        about = DataRecord(
            name=manifest.name,
            sha256=data_fingerprint(manifest),
            users=manifest.users,
            unknown_events=unknown,
        )
        return histories, about
    folder, note = work.root / "histories", work.root / "histories.json"
    if not note.is_file():
        progress(f"reading {histories.source.path}")
        record = run.record()
        told = set(histories.source.context)
        reads = [column.name for column in record.columns.context if column.name not in told]
        reads += (
            ["profiles of users"] if record.profile_values is not None and run.config().model.inputs else []
        )
        if reads:
            progress(f"note: the model reads {', '.join(reads)} too, and takes them as unknown here")
        read = read_histories(histories.source, histories.rules, run, items, folder)
        manifest = read.folder.manifest
        about = DataRecord(
            name=manifest.name,
            sha256=_fingerprint(histories, RecommendOptions()),
            users=manifest.users,
            unknown_events=read.unknown_events,
            users_without_known_items=read.users_without,
            quarantined=read.quarantined,
        )
        write_json(note, about.model_dump())
    return PreparedFolder.open(folder), DataRecord.model_validate(read_json(note))


def _job(
    run: RunFolder,
    work: WorkFolder,
    data: PreparedFolder,
    items: Items,
    options: RecommendOptions,
    wanted: Wanted,
    model: ModelRecord,
    device: str,
) -> tuple[Work, int]:
    """Put together what workers need; also how many rows of the files beside are of users who are not in the data."""
    config, record = run.config(), run.record()
    plan = run_plan(run, config, data) if options.until != "end" else None
    user_ids = data.users["source_id"]
    candidates_V = candidates(items, options, wanted)
    single = {name: [one for one in lists if one.users is not None] for name, lists in wanted.lists.items()}
    only = single.get("pairs") or single.get("allow", [])
    allowed, strange = user_items(only, user_ids)
    denied, more = user_items(single.get("deny", []), user_ids)
    users_N, still_more = asked_for(wanted, user_ids)
    if "pairs" in wanted.lists and allowed is not None:
        users_N = allowed.users_N
        options = options.model_copy(update={"k": max(allowed.longest, 1)})
    features = {column: items.one_hot(column, f"--limit {column}") for column in options.limits}
    rules = ListRules(
        options,
        Filters(candidates_V, allowed, denied),
        tuple(Limit(features_VG, options.limits[column]) for column, features_VG in features.items()),
        _shares(items, options),
    )
    histories = Histories(
        config,
        options,
        index_of(run, items, data),
        plan,
        profiles_for(record, data),
        users_N,
        record.columns.context,
        data.manifest.context or (),
    )
    job = Work(
        run_dir=run.path.absolute(),
        weights_sha256=model.weights_sha256,
        data=PreparedFolder(data.path.absolute(), data.manifest),
        # What an evaluation ranks is put together as there: its last bits depend on who is ranked together.
        pieces=pieces_of(data, PIECE_USERS if device == "cpu" and options.until == "end" else None),
        histories=histories,
        rules=rules,
        item_ids=items.source_id,
        time_known=_time_known(config, options),
        asked_from_s=_asked_from(plan, options),
        results=work.result.absolute(),
        records=(work.root / RECORDS).absolute(),
    )
    return job, strange + more + still_more


def _shares(items: Items, options: RecommendOptions) -> Any:
    """Return the shares of features for calibrated lists."""
    if options.rerank != "calibrated":
        return None
    features_VG = items.one_hot(options.by, "--calibrate")
    nothing_V = features_VG.new_zeros(len(features_VG)).long()
    return ItemFacts(nothing_V, nothing_V, 1, features_VG).shares()


def _time_known(config: RunConfig, options: RecommendOptions) -> bool:
    """Return whether the model is told when the next item is asked for."""
    return config.protocol.target_time == "known" if options.until != "end" else options.at_s is not None


def _asked_from(plan: Plan | None, options: RecommendOptions) -> int | None:
    if plan is not None and options.until != "end":
        return plan.asked_from_s(options.until)
    return options.at_s


def _numbers(job: Work) -> list[int]:
    """Return the numbers of the files that hold users who are asked for."""
    users_N = job.histories.users_N
    if users_N is None:
        return list(range(len(job.pieces)))
    ends_P = np.cumsum([piece.stop - piece.first for piece in job.pieces])
    return [int(number) for number in np.unique(np.searchsorted(ends_P, users_N, side="right"))]
