"""Profiles of users, attributes of items, hashed ties: from an archive through both engines to a model."""

import zipfile

import numpy as np
import pytest
import torch

import ss4rec
from ss4rec.config import override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.item_attributes import GENRE_COLUMNS, item_attributes
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.prepared.tables import read_items, read_shard
from ss4rec.data.prepared.user_profiles import profile_codes
from ss4rec.data.split import split
from ss4rec.errors import ConfigError, UsageError
from ss4rec.evaluation.alone import evaluate_alone
from ss4rec.presets import debug
from ss4rec.train.worker import train_alone

USERS = ("1::F::1::10::48067", "2::M::56::16::70072-1", "3::M::25::15::X5511")
MOVIES = (
    "1::Toy Story (1995)::Animation|Comedy",
    "2::Amélie::Comedy",
    "3::Heat (1995-1996)::(no genres listed)",
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """40 users, 12 films, 14 events each, four to a second; of users 4 to 39 nothing is known."""
    rng = np.random.default_rng(0)
    lines = [
        f"{user}::{item}::{rng.integers(1, 6)}::{10**9 + 1000 * user + k // 4}"
        for user in range(1, 41)
        for k, item in enumerate([*rng.permutation(12) + 1, *rng.permutation(2) + 1])
    ]
    path = tmp_path_factory.mktemp("profiles") / "small.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("small/ratings.dat", "\n".join(lines))
        file.writestr("small/users.dat", "\n".join(USERS))
        file.writestr("small/movies.dat", "\n".join(MOVIES).encode("latin-1"))
    return path


@pytest.fixture(scope="module")
def folder(archive):
    prepare(archive, archive.parent / "folder", rows_per_shard=16)
    return archive.parent / "folder"


def test_codes_say_what_the_source_says(folder):
    manifest = Manifest.load(folder)
    values = manifest.profile_values
    codes_UF = PreparedFolder.open(folder).profiles_UF
    meaning = [[values[code - 1] if code else None for code in row] for row in codes_UF[:4].tolist()]
    assert meaning == [
        ["gender=F", "age=1", "occupation=10", "zip_region=4"],
        ["gender=M", "age=56", "occupation=16", "zip_region=7"],
        ["gender=M", "age=25", "occupation=15", None],
        [None] * 4,
    ]
    assert profile_codes({"gender": "M", "age": 25}, values) == codes_UF[2, :2].tolist()
    with pytest.raises(UsageError, match="nobody with gender=X"):
        profile_codes({"gender": "X"}, values)
    batch = next(LocalSource(folder, debug().data, batch_size=4, seed=0).eval_batches("test", 40))
    last_S = batch.offsets_S1[1:] - 1
    assert batch.profiles_TF[last_S].tolist() == codes_UF[batch.users_S].tolist()


def test_attributes_say_what_the_source_says(folder):
    attributes_VA = item_attributes(read_items(folder))
    columns = [row.nonzero().squeeze(1).tolist() for row in attributes_VA]
    animation, comedy, since_1995 = 0, 1, GENRE_COLUMNS + 23
    assert columns[:4] == [[], [animation, comedy, since_1995], [comedy], [since_1995]]
    assert not any(columns[4:])


@pytest.mark.parametrize("ties", ["file", "hash"])
def test_both_engines_write_the_same_bytes(archive, tmp_path, ties):
    one = prepare(archive, tmp_path / "memory", rows_per_shard=16, ties=ties)
    two = prepare(archive, tmp_path / "tasks", rows_per_shard=16, ties=ties, block_bytes=4096)
    assert one.to_json() == two.to_json()
    assert one.filters.ties == (None if ties == "file" else "hash")


def test_hashed_ties_move_events_within_their_second_only_and_each_user_otherwise(archive, folder, tmp_path):
    prepare(archive, tmp_path / "hash", rows_per_shard=16, ties="hash")
    rows = [
        read_shard(path / "shards/part-00000.parquet").to_pylist() for path in (folder, tmp_path / "hash")
    ]
    orders = set()
    for plain, moved in zip(*rows, strict=True):
        events = [
            sorted(zip(row["timestamps"], row["items"], row["ratings"], strict=True))
            for row in (plain, moved)
        ]
        assert events[0] == events[1]
        assert moved["timestamps"] == plain["timestamps"]
        orders.add(tuple(plain["items"].index(item) for item in moved["items"][:4]))
    assert len(orders) > 8  # of 24 permutations, drawn 16 times: no order that all users share


def test_a_cut_keeps_profiles(archive, tmp_path):
    whole = prepare(archive, tmp_path / "whole", k_core=0)
    split(tmp_path / "whole", tmp_path / "cut", 10**9 + 1000 * 20)
    for part in ("past", "timeline"):
        manifest = Manifest.load(tmp_path / "cut" / part)
        assert manifest.profile_values == whole.profile_values
        codes = PreparedFolder.open(tmp_path / "cut" / part).profiles_UF
        assert codes[:3].tolist() == PreparedFolder.open(tmp_path / "whole").profiles_UF[:3].tolist()


def test_a_run_learns_and_serves_all_inputs(folder, tmp_path):
    changes = {
        "model.inputs": ["rating", "gap", "clock", "date", "profile"],
        "model.item_attributes": True,
        "model.members": 2,
        "tracking.wandb": "disabled",
    }
    run = tmp_path / "run"
    train_alone(override(debug(), changes), folder, run, torch.device("cpu"))
    assert evaluate_alone(run, folder, torch.device("cpu")).num_users == 40
    recommender = ss4rec.load(run)
    tables = [part.inputs.table for part in recommender.model.members]
    tables += [part.attributes.table for part in recommender.model.members]
    assert all(bool((table != 0).any()) for table in tables)
    plain = recommender.scores([1, 2], [10**9, 10**9 + 5])
    told = recommender.scores([1, 2], [10**9, 10**9 + 5], profile={"gender": "F"}, ratings=[5.0, 1.0])
    assert not np.array_equal(plain, told)
    with pytest.raises(UsageError, match="2 items but 1 ratings"):
        recommender.scores([1, 2], [10**9, 10**9 + 5], ratings=[5.0])


def test_inputs_that_the_data_lack_are_refused(sharded, tmp_path):
    for field, value, message in (
        ("model.inputs", ["profile"], "says nothing about users"),
        ("model.item_attributes", True, "no item of .* has a genre"),
    ):
        config = override(debug(), {field: value, "tracking.wandb": "disabled"})
        with pytest.raises(ConfigError, match=message):
            train_alone(config, sharded, tmp_path / field, torch.device("cpu"))
