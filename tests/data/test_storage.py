"""Prepared folders behind a file system that is not this machine's: an S3 server on loopback, fsspec's memory."""

import os

import fsspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ss4rec.cli.prepare import prepare_command
from ss4rec.config import DataConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import DataError
from ss4rec.io.atomic import write_whole
from ss4rec.io.paths import RemotePath, read_range, to_path


@pytest.fixture(scope="module")
def s3():
    """Address of an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ.update(
        AWS_ACCESS_KEY_ID="any",
        AWS_SECRET_ACCESS_KEY="any",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_ENDPOINT_URL=f"http://{host}:{port}",
    )
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket"
    os.environ.clear()
    os.environ.update(before)
    server.stop()


@pytest.fixture
def ratings(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        f"{user},{item},4.0,{10**9 + int(rng.integers(0, 99))}\n"
        for user in range(40)
        for item in rng.choice(30, 12, replace=False)
    ]
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(rows))
    return tmp_path / "ratings.csv"


def assert_same_folder(remote: RemotePath, local):
    names = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    assert {info.path for info in remote.iterdir() if info.is_file()} == {
        f"{remote.path}/{name}" for name in names if "/" not in name
    }
    for name in names:
        assert (remote / name).read_bytes() == (local / name).read_bytes(), name


def test_s3_in_and_out(s3, tmp_path, ratings):
    write_whole(to_path(f"{s3}/raw/ratings.csv"), ratings.read_bytes())
    prepare(ratings, tmp_path / "local", rows_per_shard=9)
    arguments = ["--source", f"{s3}/raw/ratings.csv", "--out", f"{s3}/prepared", "--rows-per-shard", "9"]
    result = CliRunner().invoke(prepare_command, arguments, catch_exceptions=False)
    assert "40" in result.output
    out = to_path(f"{s3}/prepared")
    assert_same_folder(out, tmp_path / "local")
    PreparedFolder.open(out).verify()
    assert not to_path(f"{s3}/.prepared.work").exists()

    sizes = {"batch_size": 8, "seed": 1}
    here = LocalSource(tmp_path / "local", DataConfig(), **sizes).train_batches(0, 0, 1)
    there = LocalSource(f"{s3}/prepared", DataConfig(), **sizes).train_batches(0, 0, 1)
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a[2].items_T, b[2].items_T)

    with pytest.raises(DataError, match="--overwrite"):
        prepare(ratings, out)
    for overwrite in (False, True):
        with pytest.raises(DataError, match="other files"):
            prepare(ratings, to_path(f"{s3}/raw"), overwrite=overwrite)
    assert to_path(f"{s3}/raw/ratings.csv").is_file()


def test_a_stopped_job_goes_on_in_a_bucket(s3, tmp_path, ratings):
    class StoppedError(Exception):
        pass

    def dying(function, items):
        for place, item in enumerate(items):
            if place == 3:
                raise StoppedError
            yield function(item)

    out, options = to_path(f"{s3}/again"), {"rows_per_shard": 9, "block_bytes": 500}
    with pytest.raises(StoppedError):
        prepare(ratings, out, mapper=dying, **options)
    assert not (out / "manifest.json").exists()
    prepare(ratings, out, **options)
    prepare(ratings, tmp_path / "local", rows_per_shard=9)
    assert_same_folder(out, tmp_path / "local")


def test_any_fsspec_file_system(tmp_path, ratings):
    out = to_path("memory://data/prepared")
    assert isinstance(out, RemotePath)
    prepare(ratings, out, rows_per_shard=9)
    prepare(ratings, tmp_path / "local", rows_per_shard=9)
    assert_same_folder(out, tmp_path / "local")
    assert read_range(out / "users.parquet", 0, 4) == b"PAR1"
    fsspec.filesystem("memory").rm("/data", recursive=True)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(DataError, match=r"nowhere://x is on no file system"):
        to_path("nowhere://x")
