"""The job without Ray: its lists are the evaluated ones, and it goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch

import ss4rec
from ss4rec.config import RunConfig, override
from ss4rec.data.prepared.build import write_prepared
from ss4rec.data.sources import Source
from ss4rec.errors import ContractError, DataError, UsageError
from ss4rec.evaluation.alone import evaluate_alone, rank_alone
from ss4rec.evaluation.evaluator import rank_column
from ss4rec.evaluation.metrics import METRICS
from ss4rec.recommendations.beside import Beside
from ss4rec.recommendations.job import FileOfHistories, recommend_run
from ss4rec.recommendations.options import RecommendOptions
from ss4rec.recommendations.output import RecommendManifest, read_lists
from ss4rec.runs import checkpoint
from ss4rec.runs.load import load_model
from tests.evaluation.test_ray_evaluate import save_run
from tests.progress import until
from tests.recommend.conftest import SHAPE, content
from tests.recommend.test_where import fulfil


def made(run, out, data, beside=None, **options):
    manifest = recommend_run(run, out, data, RecommendOptions(**options), beside=beside)
    assert manifest == RecommendManifest.load(out)
    return read_lists(out) if manifest.options.format == "parquet" else manifest


def write(path, **columns):
    pacsv.write_csv(pa.table(columns), path)
    return path


@pytest.mark.parametrize("seen", ["kept", "excluded"])
def test_the_written_list_is_the_evaluated_list(run, sharded, tmp_path, seen):
    """Ranks from the file give the figures of `evaluate`, ties and all."""
    model, config = load_model(run)
    ranks = rank_alone(model, config, run, sharded)
    lists = made(run, tmp_path / "out", sharded, k=119, until="test", seen=seen)
    source = dict(zip(sharded.items["item"].to_pylist(), sharded.items["source_id"].to_pylist(), strict=True))
    user_ids = sharded.users["source_id"].to_pylist()
    found = []
    for target, user, row in zip(
        ranks["target"].to_pylist(), ranks["user"].to_pylist(), lists.to_pylist(), strict=True
    ):
        assert row["user"] == user_ids[user]
        if source[target] not in row["item"]:  # seen before, so that it is no candidate here
            assert seen == "excluded"
            found.append(np.nan)
            continue
        scores = np.array(row["score"])
        own = scores[row["item"].index(source[target])]
        found.append(1 + (scores > own).sum() + ((scores == own).sum() - 1) / 2)
    evaluated = ranks[rank_column(seen, "known")].to_numpy()
    there = ~np.isnan(found)
    assert there.sum() > 100
    assert np.array_equal(np.array(found)[there], evaluated[there])
    if seen == "kept":
        result = evaluate_alone(run, sharded, torch.device("cpu")).setting("kept", "known")
        for metric in METRICS:
            assert metric(np.array(found), 10) == result.metrics[f"{metric.name}@10"]


def test_lists_of_the_whole_history_are_those_of_the_library(run, sharded, tmp_path):
    known = ss4rec.load(run)
    sequences = sharded.sequences()
    items = sharded.items["source_id"].to_pylist()
    for at_s in (None, int(sequences.times_E.max()) + 1000):
        lists = made(run, tmp_path / f"out{at_s}", sharded, k=7, at_s=at_s).to_pylist()
        assert [row["user"] for row in lists] == sharded.users["source_id"].to_pylist()
        for user in (0, 1, 77, 149):
            events = slice(*sequences.offsets_U1[user : user + 2])
            history = [items[item - 1] for item in sequences.items_E[events]]
            right = known.recommend(history, sequences.times_E[events].tolist(), 7, at_s)
            assert lists[user]["item"] == [one.item for one in right]
            assert lists[user]["score"] == pytest.approx([one.score for one in right], abs=1e-6)
            assert lists[user]["rank"] == list(range(1, 8))


def test_at_a_moment_later_events_are_not_used(run, sharded, tmp_path):
    times = sharded.sequences().times_E
    at_s = int(np.quantile(times, 0.3))
    lists = made(run, tmp_path / "out", sharded, k=3, at_s=at_s)
    with_past = np.unique(sharded.sequences().users_E[times <= at_s])
    ids = sharded.users["source_id"].to_numpy()
    assert 0 < len(with_past) < len(ids)
    assert lists["user"].to_pylist() == ids[with_past].tolist()


def test_filters_from_files(run, sharded, tmp_path):
    items = sharded.items["source_id"].to_pylist()
    users = sharded.users["source_id"].to_pylist()
    beside = Beside(
        allow=(write(tmp_path / "allow.csv", item=[*items[:40], 10**9]),),
        deny=(
            write(tmp_path / "deny.csv", item=items[:2]),
            write(tmp_path / "own.csv", user=[users[3], users[3], -5], item=[items[2], items[3], items[4]]),
        ),
        users=write(tmp_path / "users.csv", user=[users[3], users[7], 10**9]),
        items=write(tmp_path / "more.csv", id=items[:30], stock=list(range(30))),
    )
    manifest = recommend_run(
        run,
        tmp_path / "out",
        sharded,
        RecommendOptions(k=100, seen="kept", where="stock >= 1", layout="pairs"),
        beside=beside,
    )
    assert manifest.unknown_users == 2
    assert manifest.files_given["allow"][0].unknown_items == 1
    assert len(manifest.files) == 2
    table = read_lists(tmp_path / "out").to_pandas()
    expected = {users[3]: set(items[4:30]), users[7]: set(items[2:30])}
    assert {user: set(own["item"]) for user, own in table.groupby("user")} == expected


def test_a_shard_in_pieces_gives_the_same_lists(run, sharded, tmp_path, monkeypatch):
    """Seen to fail: with `first` left out where `_read` slices a shard, and with side="left" in `_numbers`."""
    import ss4rec.recommendations.job as job

    whole = recommend_run(run, tmp_path / "whole", sharded, RecommendOptions(k=5))
    monkeypatch.setattr(job, "PIECE_USERS", 2)
    cut = recommend_run(run, tmp_path / "cut", sharded, RecommendOptions(k=5))
    rows = [shard.rows for shard in sharded.manifest.shards]
    assert len(whole.files) == len(rows) < len(cut.files) == sum(-(-count // 2) for count in rows)
    assert max(record.users for record in cut.files) == 2
    one, other = read_lists(tmp_path / "whole"), read_lists(tmp_path / "cut")
    assert one.drop(["score"]).equals(other.drop(["score"]))
    wanted = one["user"].to_pylist()[3:5]  # the first two of a piece
    users = write(tmp_path / "users.csv", user=wanted)
    few = recommend_run(run, tmp_path / "few", sharded, RecommendOptions(k=5), beside=Beside(users=users))
    assert [record.users for record in few.files] == [2]
    assert read_lists(tmp_path / "few")["user"].to_pylist() == wanted


def test_columns_of_items_and_limits(run, sharded, tmp_path):
    genres = dict(
        zip(sharded.items["source_id"].to_pylist(), sharded.items["genres"].to_pylist(), strict=True)
    )
    lists = made(run, tmp_path / "out", sharded, k=5, where="year >= 1990", limits={"genres": 2})
    table = sharded.items
    from ss4rec.recommendations.items import Items
    from ss4rec.runs.folder import RunFolder

    columns = Items.of(RunFolder(run), sharded).columns
    late = set(np.array(table["source_id"].to_pylist())[fulfil("year >= 1990", columns)].tolist())
    assert 0 < len(late) < table.num_rows
    for row in lists.to_pylist():
        assert set(row["item"]) <= late
        held = [genre for item in row["item"] for genre in genres[item]]
        assert max(held.count(genre) for genre in held) <= 2


def test_scores_of_given_pairs(run, sharded, tmp_path):
    users, items = sharded.users["source_id"].to_pylist(), sharded.items["source_id"].to_pylist()
    pairs = write(
        tmp_path / "p.csv", user=[users[9], users[2], users[9]], item=[items[7], items[50], items[0]]
    )
    found = made(
        run, tmp_path / "out", sharded, Beside(pairs=pairs), k=1, seen="kept", layout="pairs"
    ).to_pylist()
    everything = made(run, tmp_path / "all", sharded, k=119, seen="kept", layout="pairs").to_pandas()
    right = everything.set_index(["user", "item"])["score"]
    assert {(row["user"], row["item"]) for row in found} == {
        (users[9], items[7]),
        (users[2], items[50]),
        (users[9], items[0]),
    }
    # The last bits depend on who is scored together with whom.
    assert all(row["score"] == pytest.approx(right[(row["user"], row["item"])], abs=1e-6) for row in found)
    assert [row["user"] for row in found] == [users[2], users[9], users[9]]


def test_histories_of_people_whom_the_run_never_saw(run, sharded, tmp_path):
    items = sharded.items["source_id"].to_pylist()
    path = write(
        tmp_path / "new.csv",
        user=["b", "a", "b", "c", "b"],
        item=[items[3], items[5], items[8], 10**9, 10**9],
        time=[200, 300, 100, 400, 500],
    )
    source = FileOfHistories(Source.open(path))
    manifest = recommend_run(run, tmp_path / "out", source, RecommendOptions(k=4))
    assert (manifest.users, manifest.data.unknown_events, manifest.data.users_without_known_items) == (
        2,
        2,
        1,
    )
    lists = read_lists(tmp_path / "out").to_pylist()
    known = ss4rec.load(run)
    assert [row["user"] for row in lists] == ["a", "b"]
    assert lists[1]["item"] == [one.item for one in known.recommend([items[8], items[3]], [100, 200], 4)]
    assert recommend_run(run, tmp_path / "out", source, RecommendOptions(k=4)) == manifest
    with pytest.raises(UsageError, match="held-out"):
        recommend_run(run, tmp_path / "no", source, RecommendOptions(until="test"))
    strange = FileOfHistories(Source.open(write(tmp_path / "x.csv", user=[1], item=[10**9], time=[5])))
    with pytest.raises(UsageError, match="knows none of its 1 items"):
        recommend_run(run, tmp_path / "no", strange, RecommendOptions())
    assert not (tmp_path / "no").exists()
    assert not (tmp_path / ".no.work").exists()


def test_formats_say_the_same(run, sharded, tmp_path):
    right = made(run, tmp_path / "pairs", sharded, k=4, layout="pairs")
    recommend_run(run, tmp_path / "csv", sharded, RecommendOptions(k=4, layout="pairs", format="csv"))
    parts = sorted((tmp_path / "csv").glob("part-*.csv"))
    table = pa.concat_tables([pacsv.read_csv(part) for part in parts])
    assert table["item"].to_pylist() == right["item"].to_pylist()
    assert table["score"].to_numpy().astype(np.float32).tolist() == right["score"].to_pylist()
    recommend_run(run, tmp_path / "jsonl", sharded, RecommendOptions(k=4, format="jsonl"))
    lines = [
        json.loads(line)
        for part in sorted((tmp_path / "jsonl").glob("part-*"))
        for line in part.read_text().splitlines()
    ]
    assert [item for line in lines for item in line["item"]] == right["item"].to_pylist()
    assert set(lines[0]) == {"user", "item", "score", "rank"}
    with pytest.raises(UsageError, match="CSV has no lists"):
        RecommendOptions.of(format="csv")


def test_what_is_refused_leaves_nothing_behind(run, sharded, tmp_path):
    out = tmp_path / "out"
    for options in ({"where": "yeer > 1"}, {"where": "year > 3000"}, {"limits": {"x": 1}}):
        with pytest.raises(UsageError):
            recommend_run(run, out, sharded, RecommendOptions(**options))
        assert not list(tmp_path.iterdir())
    recommend_run(run, out, sharded, RecommendOptions(k=2))
    before = content(out)
    with pytest.raises(DataError, match="--overwrite"):
        recommend_run(run, out, sharded, RecommendOptions(k=3))
    assert content(out) == before
    recommend_run(run, out, sharded, RecommendOptions(k=3), overwrite=True)
    assert RecommendManifest.load(out).options.k == 3
    (out / "mine.txt").write_text("x")
    with pytest.raises(DataError, match=r"other files \(mine.txt\)"):
        recommend_run(run, out, sharded, RecommendOptions(k=2), overwrite=True)


def test_a_killed_job_goes_on_to_the_same_bytes(run, sharded, tmp_path):
    right, out, work = tmp_path / "right", tmp_path / "out", tmp_path / ".out.work"
    recommend_run(run, right, sharded, RecommendOptions(k=5))
    words = ["recommend", "--run", run, "--data", sharded.path, "--out", out, "--k", 5, "--workers", 0]
    command = [sys.executable, "-m", "ss4rec.cli", *map(str, words)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: list((work / "records").glob("part-*")), killed, every_s=0.002)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = len(list((work / "records").glob("part-*")))
    assert 0 < done < len(sharded.manifest.shards)
    assert not out.exists()
    (work / "new" / ".part-00049.parquet.1234abcd").write_bytes(b"half")  # killed while it wrote
    with pytest.raises(DataError, match=r"unfinished job .*options.k"):
        recommend_run(run, out, sharded, RecommendOptions(k=6))
    told = []
    recommend_run(run, out, sharded, RecommendOptions(k=5), progress=told.append)
    assert f"{50 - done} of 50 files of lists are to be made" in told
    assert content(out) == content(right)
    assert not work.exists()
    assert pq.read_schema(out / "part-00000.parquet").names == ["user", "item", "score", "rank"]


def test_a_run_that_is_trained_on_meanwhile_is_not_mixed(run, sharded, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)

    def train_on(work, numbers):
        saved = checkpoint.best(copy / "checkpoints")
        tensors = {name: tensor + 1 for name, tensor in saved.model_tensors().items()}
        state = {**saved.state, "global_step": 2, "score": 0.9}
        checkpoint.save(copy / "checkpoints", model=tensors, training={}, state=state)
        from ss4rec.recommendations.parts import PartMaker

        yield from PartMaker(work, "cpu").make(numbers)

    with pytest.raises(ContractError, match="trained on while"):
        recommend_run(copy, tmp_path / "out", sharded, RecommendOptions(k=2), runner=train_on)


def test_from_python(run, sharded, tmp_path):
    """Lists in files, similar items and scores of pairs; the function `recommend` stays what it is."""
    import pandas as pd

    opened = ss4rec.Run(run)
    lists = opened.recommend_all(sharded, tmp_path / "out", k=3, where="year > 1960", device="cpu")
    assert ss4rec.Recommendations.open(tmp_path / "out").manifest == lists.manifest
    assert lists.to_pandas().shape == (150, 4)
    items = sharded.items["source_id"].to_pylist()
    events = pd.DataFrame({"user": ["a", "a", "b"], "item": items[:3], "time": [1, 2, 3]})
    events.to_csv(tmp_path / "events.csv", index=False)
    new = ss4rec.recommend_all(run, tmp_path / "events.csv", tmp_path / "new", k=2, device="cpu")
    frame = ss4rec.recommend(opened, events, k=2)
    assert frame["item"].tolist() == [item for row in new.to_arrow()["item"].to_pylist() for item in row]
    pairs = pd.DataFrame({"item": [items[7], items[8], 10**9], "user": ["b", "a", "a"], "note": [1, 2, 3]})
    scored = opened.score(events, pairs)
    assert scored.columns.tolist() == ["item", "user", "note", "score"]
    known = ss4rec.load(run)
    assert scored["score"][0] == pytest.approx(known.scores([items[2]], [3])[7], abs=1e-6)
    assert scored["score"][1] == pytest.approx(known.scores(items[:2], [1, 2])[8], abs=1e-6)
    assert np.isnan(scored["score"][2])
    with pytest.raises(UsageError, match="does not know 1 items"):
        opened.score(events, pairs, ignore_unknown=False)
    near = opened.similar(items[4], 5)
    rows = torch.nn.functional.normalize(load_model(run)[0].item_matrix(), dim=1)
    cosines = (rows @ rows[5]).tolist()
    right = sorted((i for i in range(1, len(rows)) if i != 5), key=lambda i: -cosines[i])[:5]
    assert [one.item for one in near] == [items[i - 1] for i in right]
    assert [one.score for one in near] == pytest.approx([cosines[i] for i in right])


def test_an_object_store_takes_files_in_place_and_the_manifest_last(run, sharded, tmp_path):
    """No rename there: an attempt that ended half-way leaves files without a manifest, and the next one goes on."""
    from ss4rec.io.paths import to_path

    right, out = tmp_path / "right", to_path("memory://lists/out")
    recommend_run(run, right, sharded, RecommendOptions(k=2))

    def ends_early(work, numbers):
        from ss4rec.recommendations.parts import PartMaker

        yield from PartMaker(work, "cpu").make(numbers[:7])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_run(run, out, sharded, RecommendOptions(k=2), runner=ends_early)
    assert len(list(out.iterdir())) == 7
    with pytest.raises(DataError, match="other files"):
        recommend_run(run, out, sharded, RecommendOptions(k=3))
    told = []
    recommend_run(run, out, sharded, RecommendOptions(k=2), progress=told.append)
    assert "43 of 50 files of lists are to be made" in told
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content(right)


def test_a_folder_that_is_newer_than_the_run(sharded, tmp_path):
    """Items have other numbers there, and some are new: ids count, and what is new is counted and left out."""
    sequences = sharded.sequences()
    known_E = sequences.items_E % 3 > 0
    manifest = sharded.manifest
    write_prepared(
        tmp_path / "old", sequences.select(known_E), name="old", source=manifest.source, filters=manifest.filters,
        rows_dropped={},
    )  # fmt: skip
    old = save_run(override(RunConfig(), SHAPE), tmp_path / "old", tmp_path / "run")
    manifest = recommend_run(old, tmp_path / "out", sharded, RecommendOptions(k=4))
    assert manifest.data.unknown_events == int((~known_E).sum()) > 0
    lists, known = read_lists(tmp_path / "out").to_pylist(), ss4rec.load(old)
    items = sharded.items["source_id"].to_pylist()
    for user in (0, 50, 149):
        events = slice(*sequences.offsets_U1[user : user + 2])
        history = [items[item - 1] for item in sequences.items_E[events]]
        right = known.recommend(history, sequences.times_E[events].tolist(), 4, ignore_unknown=True)
        assert lists[user]["item"] == [one.item for one in right]
    with pytest.raises(DataError, match="has other items than the run"):
        recommend_run(old, tmp_path / "no", sharded, RecommendOptions(until="test"))


def test_threads_that_share_a_model_write_the_same_bytes(run, sharded, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from ss4rec.recommendations.parts import PartMaker

    def together(work, numbers):
        maker = PartMaker(work, "cpu")
        with ThreadPoolExecutor(3) as pool:
            for records in pool.map(
                lambda part: list(maker.make(part)), [numbers[0::3], numbers[1::3], numbers[2::3]]
            ):
                yield from records

    options = RecommendOptions(k=5)
    recommend_run(run, tmp_path / "right", sharded, options)
    recommend_run(run, tmp_path / "out", sharded, options, runner=together)
    assert content(tmp_path / "out") == content(tmp_path / "right")
