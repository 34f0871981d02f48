"""A prepared folder and ways to damage it."""

import json

import pyarrow.parquet as pq

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import file_record


def shard_of(folder):
    return PreparedFolder.open(folder).shard_paths[0]


def rewrite_manifest(folder, change):
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def replace_table(folder, name, table):
    """Put another table in a file's place, as a stranger would: size and checksum of the manifest fit."""
    pq.write_table(table, folder / name)
    found = file_record(folder / name).model_dump()

    def change(raw):
        records = raw["files"].values() if name in raw["files"] else raw["shards"]
        keys = raw["files"] if name in raw["files"] else [record["name"] for record in raw["shards"]]
        for key, record in zip(keys, records, strict=True):
            if key == name:
                record.update(found)

    rewrite_manifest(folder, change)
