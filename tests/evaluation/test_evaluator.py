"""Ranks of whole folders under all four settings, merging, the bootstrap, and the tables made from them."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from rich.console import Console

from ss4rec.config import DataConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.errors import DataError
from ss4rec.evaluation.evaluator import (
    SETTINGS,
    EvalResult,
    rank_users,
    require_all_targets,
    summarise,
)
from ss4rec.evaluation.metrics import METRICS
from ss4rec.evaluation.popularity import MostPopular, RecentlyPopular, TrainingEvents
from ss4rec.evaluation.table import rich_table
from ss4rec.model.item_scores import ItemScores
from ss4rec.protocol.named import named


class Scored:
    """A scorer made of a function of the batch."""

    def __init__(self, function, uses_target_time=False):
        self.function, self.uses_target_time = function, uses_target_time

    def scores(self, batch, *, target_time_known):
        scores_BV = self.function(batch, target_time_known)
        return ItemScores.of_matrix(scores_BV, batch.seen_X, batch.seen_offsets_S1)


def sources(folder, world=1):
    data = DataConfig(max_len=10, overlap=2)
    return [
        LocalSource(folder, data, batch_size=4 * world, seed=0, rank=rank, world=world)
        for rank in range(world)
    ]


def rank(folder, scorer, world=1, batch_users=7, split="test"):
    return pa.concat_tables(
        rank_users(scorer, source.eval_batches(split, batch_users)) for source in sources(folder, world)
    )


@pytest.fixture(scope="module")
def manifest(prepared):
    return Manifest.load(prepared)


def peek(manifest, only_if_known=False):
    def function(batch, known):
        scores_BV = torch.zeros(batch.num_sequences, manifest.items + 1)
        if known or not only_if_known:
            scores_BV.scatter_(1, batch.targets_S[:, None], 1.0)
        return scores_BV

    return Scored(function, uses_target_time=only_if_known)


def test_a_scorer_that_knows_the_target_is_perfect(prepared, manifest):
    for setting in summarise(rank(prepared, peek(manifest)), [1, 10]).settings:
        assert set(setting.metrics.values()) == {1.0}
        assert setting.intervals["HR@10"] == (1.0, 1.0)


def test_a_constant_scorer_has_the_expected_rank_of_a_random_order(prepared, manifest):
    constant = Scored(lambda batch, known: torch.zeros(batch.num_sequences, manifest.items + 1))
    table = rank(prepared, constant)
    assert table["rank_kept_known"].unique().to_pylist() == [(manifest.items + 1) / 2]
    by_user = dict(zip(table["user"].to_pylist(), table["rank_excluded_known"].to_pylist(), strict=True))
    for batch in sources(prepared)[0].eval_batches("test", 50):
        for row, user in enumerate(batch.users_S.tolist()):
            begin, end = batch.seen_offsets_S1[row : row + 2].tolist()
            seen = set(batch.seen_X[begin:end].tolist()) - {batch.targets_S[row].item()}
            assert by_user[user] == (manifest.items - len(seen) + 1) / 2


def test_known_and_unknown_time_are_asked_for_apart(prepared, manifest):
    result = summarise(rank(prepared, peek(manifest, only_if_known=True)), [5])
    assert [s.metrics["HR@5"] for s in result.settings] == [1.0, 1.0, 0.0, 0.0]
    assert [(s.seen, s.target_time) for s in result.settings] == list(SETTINGS)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_excluding_seen_items_never_hurts(prepared, split):
    events = TrainingEvents.read(PreparedFolder.open(prepared).shard_paths, Manifest.load(prepared).items)
    for scorer in (MostPopular(events.counts()), RecentlyPopular(events)):
        table = rank(prepared, scorer, split=split)
        for time in ("known", "unknown"):
            kept, excluded = (table[f"rank_{seen}_{time}"].to_numpy() for seen in ("kept", "excluded"))
            assert (excluded <= kept).all()
            assert (excluded >= 1).all()


@pytest.mark.parametrize(("world", "batch_users"), [(2, 7), (3, 64), (5, 1)])
def test_any_sharding_ranks_every_user_once_and_alike(prepared, manifest, world, batch_users):
    generator = torch.Generator().manual_seed(0)
    scores_UV = torch.randn(manifest.users, manifest.items + 1, generator=generator)
    scorer = Scored(lambda batch, known: scores_UV[batch.users_S])
    whole, parts = rank(prepared, scorer), rank(prepared, scorer, world, batch_users)
    require_all_targets(parts["user"].to_numpy(), np.ones(manifest.users, np.int64))
    assert parts.sort_by("user") == whole.sort_by("user")
    assert summarise(parts, [10]).settings[0].intervals == summarise(whole, [10]).settings[0].intervals


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ([0, 1], r"1 missing \(first: 2\)"),
        ([0, 1, 2, 1], r"1 doubled \(first: 1\)"),
        ([0, 1, 2, 7], "1 unknown"),
    ],
)
def test_missing_doubled_and_unknown_users_are_refused(users, message):
    with pytest.raises(DataError, match=message):
        require_all_targets(np.array(users), np.ones(3, np.int64))


def table_of(ranks_U):
    return pa.table({"user": np.arange(len(ranks_U))} | {f"rank_{s}_{t}": ranks_U for s, t in SETTINGS})


def test_summaries_hold_every_metric_and_survive_json():
    ranks_U = 1 + np.random.default_rng(1).integers(0, 60, 300) / 2
    result = summarise(table_of(ranks_U), (5, 10))
    assert result.num_users == 300
    expected = {f"{metric.name}@{k}": metric(ranks_U, k) for metric in METRICS for k in (5, 10)}
    assert result.setting("excluded", "unknown").metrics == expected
    assert EvalResult.model_validate_json(result.model_dump_json()) == result


def rows_of(results):
    return list(zip(*(column.cells for column in rich_table(results).columns), strict=True))


def test_tables_show_all_scorers_in_all_settings_within_100_columns():
    better, worse = (summarise(table_of(np.full(1200, rank)), [10]) for rank in (1.0, 2.0))
    results = {"SS4Rec": better, "popular in 30 days": worse}
    text = io.StringIO()
    Console(file=text, width=100, color_system=None).print(rich_table(results))
    assert max(map(len, text.getvalue().splitlines())) <= 100
    assert "…" not in text.getvalue()
    assert text.getvalue().count("popular in 30 days") == 4
    assert "1,200 users" in text.getvalue()
    rows = rows_of(results)
    assert len(rows) == 2 * 4
    assert rows[0] == ("kept", "known", "SS4Rec", "1.0000", "1.0000", "1.0000 to 1.0000", "1.0000")


def test_a_table_of_several_targets_shows_the_protocol_s_setting_first_and_both_means():
    cut = named("time-to-split").model_copy(update={"targets": "successive"})
    ranks_N = np.array([1.0, 1.0, 1.0, 50.0])
    table = pa.table({"user": [0, 0, 0, 1]} | {f"rank_{s}_{t}": ranks_N for s, t in SETTINGS})
    result = summarise(table, (10,), protocol=cut)
    setting = result.setting("excluded", "unknown")
    assert (setting.metrics["HR@10"], setting.by_target["HR@10"]) == (0.5, 0.75)
    assert (result.num_users, result.num_targets, result.cold_targets) == (2, 4, 0)
    rows = rows_of({"model": result})
    assert rows[0][:4] == ("excluded", "unknown", "model", "0.5000")
    assert rows[-1][:4] == ("excluded", "unknown", "model", "0.7500")
    assert rich_table({"model": result}).title == "time-to-split: full ranking, 2 users, 4 targets"
