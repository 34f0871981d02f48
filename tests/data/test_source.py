from collections import Counter
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
import torch

from ss4rec.config import DataConfig
from ss4rec.data.batches import reader, source
from ss4rec.data.batches.source import LocalSource, rebatch
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import read_shard
from ss4rec.errors import ConfigError, DataError

DATA = DataConfig(max_len=12, overlap=4, shuffle_shards=2)
SIZES = {"batch_size": 16, "seed": 9}


def users(folder):
    """Items of every user, from the shards themselves."""
    tables = [read_shard(path) for path in PreparedFolder.open(folder).shard_paths]
    return {row["user"]: row["items"] for row in pa.concat_tables(tables).to_pylist()}


def rows(batch):
    """Each sequence of a batch as a tuple."""
    bounds = batch.offsets_S1.tolist()
    return [
        (user, batch.items_T[a:b].tolist(), batch.targets_T[a:b].tolist(), batch.gaps_T[a:b].tolist())
        for user, a, b in zip(batch.users_S.tolist(), bounds, bounds[1:], strict=False)
    ]


def stream(source, start_epoch, start_step, end_epoch):
    """Everything a source yields, comparable with ==."""
    return [
        (epoch, step, rows(batch))
        for epoch, step, batch in source.train_batches(start_epoch, start_step, end_epoch)
    ]


def test_an_epoch_has_every_training_pair_as_target_once(sharded):
    source = LocalSource(sharded, DATA, **SIZES)
    batches = list(source.train_batches(0, 0, 2))
    steps = source.steps_per_epoch(0)
    assert [(epoch, step) for epoch, step, _ in batches] == [(e, s) for e in range(2) for s in range(steps)]
    expected = Counter(
        (user, *pair)
        for user, items in users(sharded).items()
        for pair in zip(items[:-3], items[1:-2], strict=True)
    )
    for epoch in range(2):
        found: Counter = Counter()
        for batch_epoch, _, batch in batches:
            if batch_epoch == epoch:
                user_T = torch.repeat_interleave(batch.users_S, batch.offsets_S1.diff())
                triples = zip(user_T.tolist(), batch.items_T.tolist(), batch.targets_T.tolist(), strict=True)
                found.update(triple for triple in triples if triple[2])
        assert found == expected


@pytest.mark.parametrize("world", [2, 3])
def test_workers_together_train_on_the_same_batches(sharded, world):
    whole = stream(LocalSource(sharded, DATA, **SIZES), 0, 0, 2)
    shares = [stream(LocalSource(sharded, DATA, **SIZES, rank=r, world=world), 0, 0, 2) for r in range(world)]
    for index, (epoch, step, batch) in enumerate(whole):
        assert [share[index] for share in shares] == [(epoch, step, batch[r::world]) for r in range(world)]


def test_resuming_at_any_step_gives_the_rest(sharded):
    source = LocalSource(sharded, DATA, **SIZES, rank=1, world=2)
    steps = source.steps_per_epoch(0)
    whole = stream(source, 0, 0, 3)
    for epoch in range(3):
        for step in range(0, steps, 3):
            assert stream(source, epoch, step, 3) == whole[epoch * steps + step :]
    assert stream(source, 2, steps - 1, 3) == whole[-1:]


def test_keeping_windows_changes_nothing_but_the_reads(sharded, monkeypatch):
    reads = []
    monkeypatch.setattr(
        reader, "read_shard", lambda path, *most: reads.append(path) or read_shard(path, *most)
    )
    kept = stream(LocalSource(sharded, DATA, **SIZES), 0, 0, 2)
    assert len(reads) == 5
    monkeypatch.setattr(source, "KEPT_BYTES", 0)
    assert stream(LocalSource(sharded, DATA, **SIZES), 0, 0, 2) == kept
    assert len(reads) == 15


def test_a_full_folder_for_temporary_files_is_named(sharded, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reader, "NamedTemporaryFile", full)
    with pytest.raises(DataError, match=r"cannot take .* MiB of windows: .*No space left.* set TMPDIR"):
        stream(LocalSource(sharded, DATA, **SIZES), 0, 0, 1)


def test_kept_windows_are_mapped_files_and_no_memory(sharded):
    local = LocalSource(sharded, DATA, **SIZES)
    plain = local.reader.windows(0)
    local.reader.kept.clear()
    before = pa.total_allocated_bytes()
    mapped = reader.mapped(plain)
    assert mapped.equals(plain)
    assert pa.total_allocated_bytes() - before < plain.nbytes / 10
    assert local.reader.keep
    assert not any(buffer.is_mutable for buffer in mapped["items"].chunk(0).buffers() if buffer is not None)


def test_resuming_reads_no_shard_of_groups_before(sharded, monkeypatch):
    reads = []
    monkeypatch.setattr(
        reader, "read_shard", lambda path, *most: reads.append(path) or read_shard(path, *most)
    )
    source = LocalSource(sharded, DATA, **SIZES)
    list(source.train_batches(0, source.steps_per_epoch(0) - 1, 1))
    assert len(reads) == len(source.order.groups(0)[-1].shards) < 5


@pytest.mark.parametrize("split", ["valid", "test"])
def test_every_user_is_evaluated_once_over_all_workers(sharded, split):
    truth = users(sharded)
    seen = {}
    for rank in range(3):
        batches = list(LocalSource(sharded, DATA, **SIZES, rank=rank, world=3).eval_batches(split, 10))
        assert {batch.num_sequences for batch in batches[:-1]} == {10}
        for batch in batches:
            bounds = batch.seen_offsets_S1.tolist()
            for i, user in enumerate(batch.users_S.tolist()):
                assert user not in seen
                seen[user] = (batch.seen_X[bounds[i] : bounds[i + 1]].tolist(), int(batch.targets_S[i]))
    held_out = 2 if split == "valid" else 1
    assert seen == {user: (items[:-held_out], items[-held_out]) for user, items in truth.items()}


def test_a_generator_can_be_left(sharded):
    with closing(LocalSource(sharded, DATA, **SIZES).train_batches(0, 0, 1)) as batches:
        assert next(batches)[:2] == (0, 0)


def test_more_workers_than_a_batch_has_windows_are_refused(sharded):
    with pytest.raises(ConfigError, match=r"batches of \d+ for 17 workers"):
        LocalSource(sharded, DATA, **SIZES, world=17)


def test_rebatching_keeps_order_whatever_the_blocks():
    table = pa.table({"x": np.arange(20)})
    blocks = [table.slice(0, 3), table.slice(3, 0), table.slice(3, 11), table.slice(14)]
    cut = list(rebatch(blocks, [2, 1, 9, 1, 7]))
    assert [part.num_rows for part in cut] == [2, 1, 9, 1, 7]
    assert pa.concat_tables(cut).equals(table)
