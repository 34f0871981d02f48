"""What `prepare` should leave, row by row in plain Python: slow, and short enough to be believed."""

from contextlib import contextmanager

import pytest

from ss4rec.data.prepare import engine
from ss4rec.data.prepared.folder import PreparedFolder


@contextmanager
def many_blocks():
    """Let `prepare` treat small sources as it treats large ones: chunks, partitions, many blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "WHOLE_BYTES", 0)
        patch.setattr(engine, "PARTITION_BYTES", 200)
        yield


def content(folder):
    """Bytes of every file."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def naive_core(rows, min_user, min_item):
    """Rows (user, item, rating, time) that stay, in file order."""
    while True:
        users, items = [row[0] for row in rows], [row[1] for row in rows]
        kept = [row for row in rows if users.count(row[0]) >= min_user and items.count(row[1]) >= min_item]
        if kept == rows:
            return kept
        rows = kept


def naive_sequences(rows):
    """Per user in ascending id: (item, time, rating) in the order (time, file order)."""
    return {
        user: [
            (row[1], row[3], row[2]) for row in sorted((r for r in rows if r[0] == user), key=lambda r: r[3])
        ]
        for user in sorted({row[0] for row in rows})
    }


def read_back(path):
    """The same as `naive_sequences`, from a prepared folder, every byte of which is checked."""
    folder = PreparedFolder.open(path)
    folder.verify()
    users, items = (table["source_id"].to_pylist() for table in (folder.users, folder.items))
    assert items == sorted(items)
    rows = [row for number in range(len(folder.shard_paths)) for row in folder.read_shard(number).to_pylist()]
    assert [row["user"] for row in rows] == list(range(len(users)))
    return {
        users[row["user"]]: [
            (items[item - 1], time, rating)
            for item, time, rating in zip(row["items"], row["timestamps"], row["ratings"], strict=True)
        ]
        for row in rows
    }
