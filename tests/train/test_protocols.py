"""Training under a protocol: cuts in one call, refitting, and the benchmark that ranks everything on one split."""

import json

import pytest
import torch
from click.testing import CliRunner

from benchmarks.global_time import __main__ as global_time
from benchmarks.global_time import rank
from ss4rec.cli.options import resolve_config
from ss4rec.config import override
from ss4rec.data.batches.source import LocalSource
from ss4rec.errors import ConfigError, UsageError
from ss4rec.evaluation.alone import evaluate_alone
from ss4rec.evaluation.evaluator import EvalResult
from ss4rec.presets import preset
from ss4rec.protocol.plan import make_plan
from ss4rec.runs.folder import RunFolder
from ss4rec.train import rolling
from ss4rec.train.run import choosing, refitting
from ss4rec.train.worker import train_alone

CPU = torch.device("cpu")
SMALL = ["protocol.k_core=0", "protocol.cut=0.9", "train.epochs=1", "data.source=local", "resources.gpu=no"]


def test_early_stopping_looks_at_the_protocol_s_own_validation(prepared, tmp_path):
    config = resolve_config("debug", SMALL, protocol_name="time-to-split")
    outcome = train_alone(config, prepared, tmp_path / "run", CPU)
    plan, record = make_plan(config.protocol, prepared), RunFolder(tmp_path / "run").record()
    assert (record.division, record.cut_s, record.num_items) == (plan.facts, plan.cut_s, plan.num_items)
    assert (record.protocol, record.median_gap_s) == (config.protocol, plan.median_gap_s)
    found = evaluate_alone(tmp_path / "run", prepared, CPU, split="valid")
    assert found.num_users == plan.facts["valid_users"]
    own = found.setting("excluded", "unknown").metrics["NDCG@10"]
    assert outcome.best_score == pytest.approx(own, abs=1e-6)
    assert outcome.best_score != pytest.approx(found.setting("kept", "known").metrics["NDCG@10"], abs=1e-6)
    test = evaluate_alone(tmp_path / "run", prepared, CPU)
    assert (test.protocol, test.num_targets) == (config.protocol, plan.facts["test_targets"])


def test_refitting_trains_on_what_chose_for_as_many_epochs(prepared):
    config = resolve_config("debug", [*SMALL, "protocol.refit=true"], protocol_name="time-to-split")
    first, second = choosing(config), refitting(config, 3)
    plans = [make_plan(one.protocol, prepared) for one in (first, second)]
    assert plans[1].facts["fit_rows"] == plans[1].facts["train_rows"] > plans[0].facts["fit_rows"]
    assert (second.train.epochs, second.train.validate_every, second.train.patience) == (3, 3, 0)
    assert first.train == config.train
    windows = [LocalSource.of(one, prepared).order.num_windows for one in (first, second)]
    assert windows[1] >= windows[0]


def result_of(value, config):
    metrics = {"NDCG@10": value, "HR@10": 2 * value}
    settings = [
        {"seen": seen, "target_time": known, "metrics": metrics, "intervals": {}}
        for seen, known in (("kept", "known"), ("excluded", "unknown"))
    ]
    return EvalResult(protocol=config.protocol, num_users=3, settings=settings).model_dump(mode="json")


def test_rolling_cuts_give_mean_and_spread_and_a_folder_each(tmp_path, monkeypatch):
    seen = []

    def train(config, data, run_dir, **options):
        seen.append((config.protocol.cut, config.protocol.name, run_dir.name))
        return {"test": {"model": result_of(float(config.protocol.cut), config)}}

    monkeypatch.setattr(rolling, "train", train)
    config = resolve_config("debug", (), protocol_name="time-to-split")
    found = rolling.train_rolling(config, tmp_path, tmp_path, [0.7, 0.8, 0.9])
    assert seen == [(cut, f"time-to-split with cut={cut}", f"cut-{cut}") for cut in (0.7, 0.8, 0.9)]
    assert found["summary"]["model"]["NDCG@10"] == {
        "mean": pytest.approx(0.8),
        "sd": pytest.approx(0.1),
        "values": [0.7, 0.8, 0.9],
    }
    assert json.loads((tmp_path / "rolling.json").read_text())["cuts"] == [0.7, 0.8, 0.9]
    with pytest.raises(ConfigError, match="needs a protocol with a cut"):
        rolling.train_rolling(preset("debug"), tmp_path, tmp_path, [0.7, 0.8])
    with pytest.raises(ConfigError, match="at_end"):
        rolling.train_rolling(override(config, {"evaluation.at_end": False}), tmp_path, tmp_path, [0.7, 0.8])


def test_the_benchmark_finds_no_row_wrong_and_goes_on_where_it_stopped(prepared, tmp_path, monkeypatch):
    small = global_time.named("time-to-split").model_copy(update={"k_core": 0})
    monkeypatch.setattr(global_time, "named", lambda name: small)
    run = tmp_path / "mine"
    config = override(preset("debug"), {"train.epochs": 1, "data.source": "local", "data.target_time": False})
    train_alone(config.model_copy(update={"protocol": small}), prepared, run, CPU)
    options = ["--data", str(prepared), "--work", str(tmp_path / "work"), "--run", str(run), "--other-data"]
    options += ["--no-peers", "--out", str(tmp_path)]
    first = CliRunner().invoke(global_time.main, options, catch_exceptions=False)
    record = json.loads(next(tmp_path.glob("global-time-*.json")).read_text())
    rows = [row for row in record["rows"] if "targets" in row]
    assert record["headline"][0] == record["headline"][0] | {"name": "protocol.split_rows_wrong", "value": 0}
    assert {row["targets"] for row in rows} == {"last", "successive", "random", "first"}
    assert {row["ties"] for row in rows} == {"file", "hash"}
    many = next(row for row in rows if row["what"] == "ss4rec mine" and row["targets"] == "successive")
    assert many["unknown"] == many["known"]
    assert many["known"]["events"] != many["known"]["users"]
    monkeypatch.setattr(rank, "rank_users", None)  # whatever is ranked again fails
    again = CliRunner().invoke(global_time.main, options, catch_exceptions=False)
    assert again.output.splitlines()[-2] == first.output.splitlines()[-2]
    train_alone(config, prepared, tmp_path / "other", CPU)
    with pytest.raises(UsageError, match="not trained by --protocol time-to-split"):
        CliRunner().invoke(
            global_time.main, [*options, "--run", str(tmp_path / "other")], catch_exceptions=False
        )
