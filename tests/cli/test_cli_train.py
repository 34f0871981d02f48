"""`ss4rec train`, `demo` and `config`: options become a configuration and a folder; tests/test_end_to_end.py trains."""

import json

from ss4rec.auto.resolve import Auto
from ss4rec.cli.pipeline import Done
from ss4rec.config import RunConfig
from tests.cli.harness import Case, parametrised, ranked

TRAIN = {"stub": "ss4rec.train.run.train", "answer": {"run": "/r", "training": {"epochs": 1}}}


def _trained(seen):
    ((config, data, run_dir), options) = seen.calls[0]
    assert (config.preset, config.train.skip_bad_steps, config.model.dim) == ("debug", 2, 24)
    assert (config.resources.workers, config.resources.max_workers) == (1, 3)
    assert data.path.name == "small"
    assert run_dir == seen.folder / "there" / "mine"
    assert options == {"address": "h:1", "skip_bad_shards": True}
    assert seen.json["training"] == {"epochs": 1}


def _defaults(seen):
    ((config, _, run_dir), options) = seen.calls[0]
    assert isinstance(config, Auto)
    assert (config.changes, config.minutes) == ({}, None)
    assert run_dir == seen.folder / "runs" / "auto-small"
    assert options["address"] is None


def _protocol_and_time(seen):
    config = seen.calls[0][0][0]
    assert (config.protocol.name, config.minutes) == ("time-to-split", 5.0)


def _cuts(seen):
    ((config, _, _, cuts), _) = seen.calls[0]
    assert (config.protocol.name, cuts) == ("time-to-split", (0.7, 0.8))
    assert seen.json == {"cuts": [0.7, 0.8]}


def _two_seeds(seen):
    assert [config.train.seed for (config, *_), _ in seen.calls] == [2020, 2021]
    assert [run_dir.name for (*_, run_dir), _ in seen.calls] == ["two-seed2020", "two-seed2021"]
    assert "ss4rec compare OTHER..." in seen.out


def _in_minutes(seen):
    ((config, *_), _) = seen.calls[0]
    assert (config.minutes, config.protocol.seen) == (2.5, "excluded")
    assert config.changes == {"model.dim": 24, "resources.workers": 2, "resources.max_workers": None}


def _preset_in_minutes(seen):
    ((config, *_), _) = seen.calls[0]
    assert config.preset == "debug"
    assert config.train.fit_minutes
    assert 1 < config.train.max_minutes < 3


def _warm(seen):
    ((config, _, run_dir), _) = seen.calls[0]
    assert (config.preset, config.train.replay_share) == ("debug", 0.5)
    assert config.train.start_from.endswith("/run")
    assert config.data.new_after_s > 0
    assert config.train.fit_minutes
    assert run_dir.name == "debug-small-warm"


def _explained(seen):
    assert "auto: synth has" in seen.out
    assert "set by you" in seen.out
    assert "# 3 minutes less start and test" in seen.out
    assert max(map(len, seen.out.split("\n\n", 1)[1].splitlines())) <= 80


def _chosen(seen):
    config = RunConfig.model_validate(json.loads(seen.out))
    assert (config.preset, config.train.precision) == ("auto", "bf16")


def _suggested(seen):
    assert 'model.dimm: no such field; did you mean "model.dim"?' in seen.err


def _configured(seen):
    config = RunConfig.model_validate(json.loads(seen.out))
    assert (config.preset, config.resources.workers, config.train.epochs) == ("demo", 2, 3)


def _demo(seen):
    ((config, data, run_dir), _) = seen.calls[0]
    assert (config.preset, config.train.epochs, config.resources.workers) == ("debug", 1, 2)
    assert (data.path.name, run_dir) == ("small", seen.folder / "there" / "demo")
    assert seen.out.count("unknown") == 2, "both settings without the target's time"
    assert "next: ss4rec show '/my runs/r'" in seen.out
    assert max(map(len, seen.out.splitlines()[:-1])) <= 80


def _demo_in_short(seen):
    assert "model: NDCG@10 0.2500" in seen.out
    assert "the other settings: --all" in seen.out
    assert "unknown" not in seen.out


DEMO = {
    "stub": "ss4rec.train.run.train",
    "answer": {"run": "/my runs/r", "test": {"model": ranked().model_dump(mode="json")}},
}


def _whole_path(seen):
    ((asked, data, folder), _) = seen.calls[0]
    assert (asked.source, asked.cutoff, asked.users, asked.items) == ("r.csv", "2015-03-31", 900, 400)
    assert asked.preset == "debug"
    assert asked.train == ("--set", "train.epochs=1", "--protocol", "recbole", "--workers", "1:3")
    assert (data, folder) == (seen.folder / "there", seen.folder / "runs" / "ml-32m")
    assert "train        1,234.6 s, begun 2 times" in seen.out
    assert "next: ss4rec show " in seen.out


def _whole_path_by_default(seen):
    ((asked, data, _), _) = seen.calls[0]
    assert (asked.preset, asked.train, asked.users, asked.source) == ("ml_20m_best", (), None, None)
    assert data == seen.folder / "data" / "ml-32m"


STAGES = {
    "stub": "ss4rec.cli.pipeline.run_pipeline",
    "answer": [Done("train", 1234.56, 2), Done("drift", None, 1)],
}
CASES = (
    Case(
        "demo --like ml-32m --source r.csv --cutoff 2015-03-31 --users 900 --items 400 --preset debug --data there "
        "--set train.epochs=1 --protocol recbole --workers 1:3",
        _whole_path,
        **STAGES,
    ),
    Case("demo --like ml-32m", _whole_path_by_default, **STAGES),
    Case("demo --users 900", lambda seen: _has(seen.err, "go with --like ml-32m"), 2),
    Case(
        "train --data {prepared} --preset debug --set model.dim=24 --workers 1:3 --storage there --name mine "
        "--address h:1 --skip-bad-steps 2 --skip-bad-shards --all --json",
        _trained,
        **TRAIN,
    ),
    Case("train --data {prepared}", _defaults, **TRAIN),
    Case("train --data {prepared} --protocol time-to-split --minutes 5", _protocol_and_time, **TRAIN),
    Case(
        "train --data {prepared} --preset debug --protocol time-to-split --cuts 0.7,0.8 --json",
        _cuts,
        stub="ss4rec.train.rolling.train_rolling",
        answer={"cuts": [0.7, 0.8]},
    ),
    Case("train --data {prepared} --preset debug --cuts 0.7", lambda seen: _has(seen.err, "two or more"), 2),
    Case("train --data {prepared} --set model.dimm=24", _suggested, 2),
    Case("train --data {prepared} --preset debug --name two --seeds 2", _two_seeds, **TRAIN),
    Case("train --data {prepared} --seeds 2", lambda seen: seen.err.index("name a --preset"), 2),
    Case(
        "train --data {prepared} --seeds 2 --cuts 0.5,0.6",
        lambda seen: seen.err.index("exclude one another"),
        2,
    ),
    Case(
        "train --data {prepared} --minutes 2.5 --protocol s3rec --set model.dim=24 --workers 2",
        _in_minutes,
        **TRAIN,
    ),
    Case("train --data {prepared} --preset debug --minutes 3", _preset_in_minutes, **TRAIN),
    Case("config --data {prepared} --no-gpu --minutes 3 --set model.dim=24 --explain", _explained),
    Case("config --data {prepared} --gpu", _chosen),
    Case("config --preset auto", lambda seen: _has(seen.err, "as in --data data/ml-1m"), 2),
    Case("config --preset demo --explain", lambda seen: _has(seen.err, "says what auto decided"), 2),
    Case("train --data {prepared} --set model.dim", lambda seen: _has(seen.err, "as in model.dim=128"), 2),
    Case("train --data {prepared} --workers 3:2", lambda seen: _has(seen.err, "3:2"), 2),
    Case("train --data {folder}/none", lambda seen: _has(seen.err, "no data folder"), 2),
    Case("train --data memory://none", lambda seen: _has(seen.err, "no data folder"), 2),
    Case("train --data nowhere://x", lambda seen: _has(seen.err, "on no file system"), 2),
    Case("config --preset demo --set train.epochs=3 --workers 2", _configured),
    Case("config --data {prepared} --gpu --minutes 5 --protocol time-to-split --explain", lambda seen: None),
    Case("config --fields", lambda seen: _has(seen.out, "Configuration")),
    Case(
        "demo --preset debug --protocol leave-one-out --set train.epochs=1 --workers 2 "
        "--data {prepared} --storage there --all",
        _demo,
        **DEMO,
    ),
    Case("demo --preset debug --data {prepared}", _demo_in_short, **DEMO),
    Case("train --data {prepared} --from {run} --set train.replay_share=0.5 --minutes 3", _warm, **TRAIN),
    Case(
        "train --data {prepared} --from {run} --preset debug --set model.dim=24",
        lambda seen: _has(seen.err, "model.dim is 16 there and 24 here"),
        2,
    ),
    Case("train --data {prepared} --from {folder}", lambda seen: _has(seen.err, "is not a run folder"), 2),
    Case(
        "train --data {prepared} --from {run} --cuts 0.5,0.6",
        lambda seen: _has(seen.err, "give one of them"),
        2,
    ),
)


def _has(text, words):
    assert words in text


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
