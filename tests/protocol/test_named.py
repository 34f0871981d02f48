"""Named protocols, what they say in words, and how a command line and old files become one."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ss4rec.cli.options import resolve_config, resolve_protocol
from ss4rec.config import RunConfig, override, parse_config
from ss4rec.errors import ConfigError, DataError, UsageError
from ss4rec.presets import preset
from ss4rec.protocol.named import NAMED, describe, named, protocol_of
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import RunFolder
from ss4rec.runs.under_protocol import under_protocol

WORDS = {
    "leave-one-out": ("last event is the test", "items of the history are kept", "known"),
    "time-to-split": (
        "0.9 quantile",
        "fewer than 5 events",
        "repeats",
        "are excluded",
        "count as misses",
        "unknown",
    ),
    "recbole": ("last event is the test", "order of the file", "items of the history are kept"),
    "s3rec": ("last event is the test", "fewer than 5 events", "items of the history are excluded"),
}


@pytest.mark.parametrize("name", NAMED)
def test_named_protocols_say_what_they_do_and_survive_json(name):
    protocol = named(name)
    assert protocol.name == name
    assert all(words in describe(protocol) for words in WORDS[name])
    assert Protocol.model_validate_json(protocol.model_dump_json()) == protocol


def test_old_configurations_are_leave_one_out_and_keep_their_fingerprints():
    raw = preset("paper").model_dump(mode="json")
    del raw["protocol"]
    assert parse_config(raw) == preset("paper")
    before = preset("paper").fingerprint()
    assert override(preset("paper"), {"protocol.name": "mine"}).fingerprint() == before
    cut = resolve_config("paper", (), protocol_name="time-to-split")
    prints = {preset("paper").fingerprint(), cut.fingerprint()}
    prints |= {
        resolve_config(cut, [f"protocol.{text}"]).fingerprint() for text in ("cut=0.8", "targets=first")
    }
    assert len(prints) == 4


def test_the_command_line_names_what_it_changes(tmp_path):
    config = resolve_config("debug", ["protocol.cut=2000-11-30"], protocol_name="time-to-split")
    assert config.protocol.name == "time-to-split with cut=2000-11-30"
    for place, raw in (("protocol.json", config.protocol), ("config.json", config)):
        (tmp_path / place).write_text(raw.model_dump_json())
        assert protocol_of(str(tmp_path / place)) == config.protocol
    assert resolve_protocol(config.protocol, None, ["protocol.targets=first"]).targets == "first"
    with pytest.raises(ConfigError, match="only fields of the protocol"):
        resolve_protocol(Protocol(), None, ["model.dim=8"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("protocol.cut=0.9", "only for kind global_time; begin with --protocol time-to-split"),
        ("protocol.kind=global_time", "needs a cut"),
        ("protocol.targets=all", "protocol.targets"),
        ("protocol.target=last", 'did you mean "protocol.targets"'),
    ],
)
def test_what_cannot_be_is_refused_in_words(assignment, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config("debug", [assignment])


@pytest.mark.parametrize("cut", [1.5, "next year", 0.0])
def test_cuts_that_are_no_moment_are_refused(cut):
    with pytest.raises(ConfigError, match="quantile"):
        override(RunConfig(), {"protocol.kind": "global_time", "protocol.cut": cut})


def test_unknown_names_and_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match='did you mean "time-to-split"'):
        named("time-to-splt")
    (tmp_path / "x.json").write_text(json.dumps({"kind": "other"}))
    for text in (str(tmp_path / "x.json"), "@nowhere.json"):
        with pytest.raises(ConfigError, match="is no protocol"):
            protocol_of(text)


def test_a_run_is_tested_only_by_what_trains_on_the_same_events():
    config = resolve_config("debug", (), protocol_name="time-to-split")
    first = config.protocol.model_copy(update={"targets": "first", "seen": "kept", "min_history": 5})
    assert under_protocol(config, first).protocol == first
    assert under_protocol(config, None) is config
    for changes in ({"cut": 0.8}, {"validation": "user"}, {"refit": True}, {"ties": "hash"}):
        other = config.protocol.model_copy(update=changes)
        with pytest.raises(UsageError, match="may hold what the run has learned"):
            under_protocol(config, other)
    with pytest.raises(UsageError, match="leave_one_out -> global_time"):
        under_protocol(preset("debug"), config.protocol)


def test_folders_that_contradict_a_protocol_are_refused(prepared, tmp_path):
    cases = (
        ({"core": "after", "k_core": 3}, {"k_core": 5}, "--k-core 0, or set protocol.core=before"),
        ({"k_core": 3}, {"k_core": 5}, "set protocol.k_core=5"),
        ({"ties": "file"}, {"ties": "hash"}, "prepare it with --ties file"),
    )
    for number, (fields, filters, message) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        raw = json.loads((prepared / "manifest.json").read_text())
        raw["filters"] |= filters
        (folder / "manifest.json").write_text(json.dumps(raw))
        protocol = Protocol(name="x", kind="global_time", cut=0.8, **fields)
        with pytest.raises(DataError, match=message):
            make_plan(protocol, folder)


def test_a_run_folder_holds_its_protocol_and_only_what_trains(prepared, tmp_path):
    from ss4rec.data.prepared.folder import PreparedFolder
    from ss4rec.data.prepared.manifest import Manifest
    from ss4rec.data.prepared.tables import read_items

    config = resolve_config(
        "debug", ["protocol.cut=0.05", "protocol.k_core=0"], protocol_name="time-to-split"
    )
    RunFolder(tmp_path / "run").start(config, PreparedFolder.open(prepared))
    assert protocol_of(str(tmp_path / "run" / "protocol.json")) == config.protocol
    plan, items = make_plan(config.protocol, prepared), read_items(tmp_path / "run")
    assert items.num_rows == plan.num_items < Manifest.load(prepared).items
    assert items["item"].to_pylist() == list(range(1, plan.num_items + 1))
    assert sum(items["count"].to_pylist()) == plan.facts["fit_rows"]


def test_a_division_is_written_for_other_programs(prepared, tmp_path):
    from click.testing import CliRunner

    from ss4rec.cli.split import split_command
    from ss4rec.data.prepared.tables import read_items

    options = [
        "--data",
        str(prepared),
        "--out",
        str(tmp_path / "out"),
        "--protocol",
        "time-to-split",
        "--json",
    ]
    options += [
        "--set",
        "protocol.k_core=0",
        "--set",
        "protocol.targets=successive",
        "--set",
        "protocol.cut=0.05",
    ]
    result = CliRunner().invoke(split_command, options, catch_exceptions=False)
    found = json.loads(result.output)
    events, valid, test = (
        pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in ("events", "valid", "test")
    )
    protocol = protocol_of(str(tmp_path / "out" / "protocol.json"))
    assert (
        found
        == {"folder": str(tmp_path / "out"), "protocol": protocol.model_dump(mode="json")}
        | make_plan(protocol, prepared).facts
    )
    assert sum(events["trains"].to_pylist()) == found["fit_rows"]
    assert test.num_rows == found["test_targets"]
    assert valid.num_rows == found["valid_users"]
    trained = {
        item
        for item, trains in zip(*(events[c].to_pylist() for c in ("item", "trains")), strict=True)
        if trains
    }
    assert set(read_items(prepared)["source_id"].to_pylist()) > trained == set(events["item"].to_pylist())
    users = {}
    for row in events.to_pylist():
        users.setdefault(row["user"], []).append(row)
    cold = 0
    for row in test.to_pylist():
        history = users[row["user"]]
        assert row["cold"] == (row["item"] not in trained)
        assert row["time"] > found["cut_s"]
        cold += row["cold"]
        if not row["cold"]:
            assert (history[row["history"]]["item"], history[row["history"]]["time"]) == (
                row["item"],
                row["time"],
            )
    assert cold == found["test_cold_targets"] > 0
    for wrong in (["--cutoff", "2000-01-01"], ["--k-core", "5"]):
        assert isinstance(CliRunner().invoke(split_command, [*options, *wrong]).exception, UsageError)


@pytest.mark.realdata
def test_ml_1m_is_split_as_published(tmp_path):
    from benchmarks.global_time.split import PUBLISHED, check_split
    from ss4rec.data.prepare.engine import prepare

    archive = Path(os.environ.get("SS4REC_DATA", "../shared/data")) / "ml-1m.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not here")
    prepare(archive, tmp_path / "ml-1m", k_core=0)
    found = check_split(tmp_path / "ml-1m", named("time-to-split"), PUBLISHED)
    assert (found["counts_wrong"], found["rows_wrong"]) == ({}, 0)
