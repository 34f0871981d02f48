"""The functions of `import ss4rec`: tables in, a trained run and tables out, all in this process."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ss4rec
from ss4rec.errors import ConfigError, DataError, UsageError
from ss4rec.runs.folder import RunFolder
from tests.api.shop import COLUMNS, shop

FEW = {"train.epochs": 2, "tracking.wandb": "disabled"}


@pytest.fixture(scope="module")
def events() -> pd.DataFrame:
    return shop()


@pytest.fixture(scope="module")
def data(events, tmp_path_factory) -> ss4rec.PreparedFolder:
    return ss4rec.prepare(events, tmp_path_factory.mktemp("api") / "shop", columns=COLUMNS)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> ss4rec.Run:
    return ss4rec.train(data, "debug", changes=FEW, storage=tmp_path_factory.mktemp("runs"))


def test_import_alone_is_quick():
    code = (
        "import sys, ss4rec; ss4rec.__version__; print(sorted({'torch', 'ray', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in ss4rec.__all__:
        assert getattr(ss4rec, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = ss4rec.trian


def test_train_is_a_function_also_after_its_package_was_imported():
    import ss4rec.train.loop as loop

    assert loop is sys.modules["ss4rec.train.loop"]
    assert inspect.signature(ss4rec.train) == inspect.signature(ss4rec.api.train)


def as_polars(frame):
    return pl.from_pandas(frame)


def as_arrow(frame):
    return pa.Table.from_pandas(frame)


def as_categories(frame):
    return frame.assign(buyer=pd.Categorical(frame.buyer, sorted(set(frame.buyer), reverse=True)))


def as_csv(frame, path):
    frame.to_csv(path / "shop.csv", index=False)
    return path / "shop.csv"


@pytest.mark.parametrize("kind", [as_polars, as_arrow, as_csv])
def test_a_source_of_any_kind_gives_the_same_folder(events, data, tmp_path, kind):
    source = kind(events, tmp_path) if kind is as_csv else kind(events)
    other = ss4rec.prepare(source, tmp_path / "shop", columns=COLUMNS)
    assert [shard.sha256 for shard in other.manifest.shards] == [s.sha256 for s in data.manifest.shards]
    assert other.items.equals(data.items)
    assert other.manifest.name == "shop"


def test_what_is_no_source_is_said(tmp_path):
    with pytest.raises(UsageError, match="source is a list; give a path, or a pandas"):
        ss4rec.prepare([1, 2], tmp_path / "no")
    with pytest.raises(DataError, match=r"the table has the columns a; none is known to be the user"):
        ss4rec.prepare(pd.DataFrame({"a": [1]}), tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "cutoff", [date(2024, 3, 1), "2024-03-01", datetime(2024, 3, 1, 23, 59, 59, tzinfo=UTC), 1709337599]
)
def test_a_cut_is_a_date_a_time_or_a_number(events, tmp_path, cutoff):
    everything = ss4rec.prepare(events, tmp_path / "all", columns=COLUMNS, k_core=0)
    cut = ss4rec.split(everything, tmp_path / "cut", cutoff)
    assert cut.record.cut_s == 1709337599
    assert cut.past.manifest.last_time_s <= cut.record.cut_s < cut.timeline.manifest.last_time_s
    assert ss4rec.TimeSplit.open(tmp_path / "cut").record == cut.record


def test_a_run_tells_all_about_itself(run, data):
    assert run.name == "debug-shop"
    assert run.config.train.epochs == 2
    assert run.record.num_users == data.manifest.users
    assert run.metrics["epoch"].tolist() == [1, 2]
    assert run.result["training"]["epochs"] == 2
    assert ss4rec.Run(run.path).test.model == run.test.model
    with pytest.raises(DataError, match="is not a run folder"):
        ss4rec.Run(data.path)


def test_evaluation_here_equals_the_test_at_the_end(run, data):
    found = run.evaluate(data)
    assert dict(found) == dict(run.test)
    table = found.to_pandas()
    row = table[(table.scorer == "model") & (table.metric == "NDCG@10")].iloc[0]
    assert row.value == found.metric("NDCG@10")
    assert row.low <= row.value <= row.high
    assert {"model", "most popular", "popular in 30 days"} < set(table.scorer)


def test_other_data_are_refused(run, events, tmp_path):
    other = ss4rec.prepare(events[events["sku"] != events["sku"].iloc[0]], tmp_path / "x", columns=COLUMNS)
    with pytest.raises(DataError, match="has other items than the run debug-shop"):
        run.evaluate(other)


@pytest.mark.parametrize("kind", [lambda frame: frame, as_polars, as_arrow, as_categories])
def test_recommendations_come_as_the_table_that_was_given(run, events, kind):
    some = events[events.buyer.isin(events.buyer.unique()[:5])]
    found = run.recommend(kind(some), k=3, columns=COLUMNS)
    assert type(found) is type(kind(some))
    table = pa.table(found).to_pandas()
    assert table["buyer"].tolist() == [user for user in some.buyer.unique() for _ in range(3)]
    assert table["rank"].tolist() == [1, 2, 3] * 5
    one = some[some.buyer == some.buyer.iloc[0]]
    expected = run.recommender.recommend(one.sku.tolist(), one.bought_at.tolist(), k=3)
    assert table["item"][:3].tolist() == [r.item for r in expected]
    np.testing.assert_allclose(table["score"][:3], [r.score for r in expected], rtol=1e-4)


def test_unknown_items_are_left_out_or_refused(run, events):
    strange = pd.DataFrame({"buyer": ["new"], "sku": ["unheard of"], "bought_at": [datetime(2024, 6, 1)]})
    both = pd.concat([events[:4], strange])
    assert "new" not in set(run.recommend(both, columns=COLUMNS)["buyer"])
    assert len(run.recommend(strange, columns=COLUMNS)) == 0
    with pytest.raises(UsageError, match="does not know 1 items"):
        run.recommend(both, columns=COLUMNS, ignore_unknown=False)


def test_what_cannot_be_trained_is_said(data, tmp_path):
    with pytest.raises(ConfigError, match="did you mean"):
        ss4rec.train(data, "debg", storage=tmp_path)
    with pytest.raises(ConfigError, match="did you mean"):
        ss4rec.train(data, "debug", changes={"model.dims": 3}, storage=tmp_path)
    with pytest.raises(ConfigError, match="pass workers= to train on Ray"):
        ss4rec.train(data, "debug", changes={"resources.workers": 2}, storage=tmp_path)
    with pytest.raises(UsageError, match="device 'quantum' is unknown"):
        ss4rec.train(data, "debug", device="quantum", storage=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_callers_random_state_stays(data, tmp_path):
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    ss4rec.train(data, "debug", changes=FEW | {"evaluation.at_end": False}, storage=tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_an_interrupt_leaves_a_checkpoint_of_its_step_and_the_same_name_continues(
    data, run, tmp_path, capsys
):
    from ss4rec.train import status

    # A shell lets its background jobs ignore SIGINT, and this test may run in one.
    before_this = signal.signal(signal.SIGINT, signal.default_int_handler)
    seen = []

    def interrupt_at_the_first_line(line, **fields):
        seen.append(line)
        if line.startswith("epoch 1/"):
            os.kill(os.getpid(), signal.SIGINT)

    told, status.say = status.say, interrupt_at_the_first_line
    import ss4rec.train.loop as loop

    loop.say, before = interrupt_at_the_first_line, loop.say
    try:
        with pytest.raises(KeyboardInterrupt, match="the same name continues it"):
            ss4rec.train(data, "debug", changes=FEW, storage=tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        status.say, loop.say = told, before
        signal.signal(signal.SIGINT, before_this)
    steps = [path.name for path in (tmp_path / "debug-shop" / "checkpoints").iterdir()]
    assert steps
    assert not (tmp_path / "debug-shop" / "result.json").exists()
    again = ss4rec.train(data, "debug", changes=FEW, storage=tmp_path)
    assert "continuing debug-shop at epoch" in capsys.readouterr().out
    assert dict(again.test) == dict(run.test)


def test_one_training_at_a_time(data, tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def waits(*args):
        begun.set()
        go_on.wait()

    monkeypatch.setattr("ss4rec.api.training._train_here", waits)
    RunFolder(tmp_path / "a").start(ss4rec.preset("debug"), data)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ss4rec.train, data, "debug", storage=tmp_path, name="a")
        begun.wait()
        with pytest.raises(UsageError, match="another training runs in this process"):
            ss4rec.train(data, "debug", storage=tmp_path, name="b")
        go_on.set()
        assert first.result().name == "a"


def test_threads_share_a_recommender(run, events):
    people = [events[events.buyer == buyer] for buyer in events.buyer.unique()[:24]]

    def ask(one):
        return [r.item for r in run.recommender.recommend(one.sku.tolist(), one.bought_at.tolist(), k=5)]

    alone = [ask(one) for one in people]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, people)) == alone


def test_a_recommender_answers_in_a_forked_child(run, events):
    one = events[events.buyer == events.buyer.iloc[0]]
    code = f"""
import os, sys
import pandas as pd, torch, ss4rec
torch.set_num_threads(2)
model = ss4rec.load({str(run.path)!r})
items, times = {one.sku.tolist()!r}, pd.to_datetime({[str(t) for t in one.bought_at]!r})
torch.mm(torch.rand(2000, 2000), torch.rand(2000, 2000))  # starts torch's threads
before = [r.item for r in model.recommend(items, times)]
child = os.fork()
if child == 0:
    os._exit(0 if [r.item for r in model.recommend(items, times)] == before else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == 0


def test_auto_chooses_for_data_and_machine(data, tmp_path, capsys):
    run = ss4rec.train(data, changes=FEW | {"model.dim": 8, "train.epochs": 1}, storage=tmp_path, minutes=1)
    assert run.name == "auto-shop"
    assert run.config.preset == "auto"
    assert run.config.model.dim == 8
    assert run.config.train.max_minutes > 0


def test_a_cut_in_time_tests_what_came_after_it(events, tmp_path):
    everything = ss4rec.prepare(events, tmp_path / "all", columns=COLUMNS, k_core=0)
    run = ss4rec.train(everything, "debug", protocol="time-to-split", changes=FEW, storage=tmp_path)
    assert run.test.model.protocol.kind == "global_time"
    with pytest.raises(UsageError, match="trains on other events"):
        run.evaluate(everything, protocol="recbole")


def test_a_warm_start_keeps_what_was_learned(run, data, tmp_path):
    child = ss4rec.train(data, start_from=run, storage=tmp_path)
    assert child.name == "debug-shop-warm"
    assert child.config.train.start_from == str(run.path)
    assert child.result["training"]["ended"].startswith("nothing is new since")
    with pytest.raises(UsageError, match=r"model\.dim"):
        ss4rec.train(data, start_from=run.path, changes={"model.dim": 24}, storage=tmp_path, name="other")


def test_columns_about_items_users_and_events_come_as_tables(events, tmp_path):
    frame = events.assign(device=["phone", "web"] * (len(events) // 2) + ["web"] * (len(events) % 2))
    about = pd.DataFrame({"sku": frame["sku"].unique()}).assign(price=lambda t: range(len(t)))
    people = pd.DataFrame({"buyer": frame["buyer"].unique()}).assign(town="Rome")
    data = ss4rec.prepare(
        frame, tmp_path / "data", columns=COLUMNS, item_features=about, user_features=people,
        feature_kinds={"price": "number"}, context=["device"], targets="device=web", k_core=0,
    )  # fmt: skip
    manifest = data.manifest
    assert [(f.name, f.kind) for f in manifest.features["items"]] == [("price", "number")]
    assert manifest.profile_values == ("town=Rome",)
    assert (manifest.context[0].values, manifest.targets.values) == (("phone", "web"), ("web",))
