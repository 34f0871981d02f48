"""Prepared folders behind a file system that is not this machine's: an S3 server on loopback, fsspec's memory."""

import os

import fsspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ss4rec.cli.options import data_folder
from ss4rec.cli.prepare import prepare_command
from ss4rec.config import DataConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import DataError
from ss4rec.io import atomic
from ss4rec.io.atomic import write_whole
from ss4rec.io.paths import RemotePath, read_range, to_path
from ss4rec.train.worker import train_alone


class Server:
    """moto's S3 on loopback, which can go away and come back with all that it holds."""

    def __init__(self) -> None:
        self.port = 0
        self.begin()

    def begin(self) -> None:
        from moto.server import ThreadedMotoServer

        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.moto.start()
        self.port = self.moto.get_host_and_port()[1]

    def end(self) -> None:
        self.moto.stop()


@pytest.fixture(scope="module")
def server():
    running = Server()
    yield running
    running.end()


@pytest.fixture(scope="module")
def s3(server):
    """Address of an empty bucket."""
    import boto3

    host, port = server.moto.get_host_and_port()
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


@pytest.fixture
def away(s3, server, monkeypatch):
    """Take the server away, and bring it back at the n-th time that somebody waits for it; says what was told."""
    told = []

    def begin(at: int) -> list[str]:
        pauses = []

        def pause(seconds):
            pauses.append(seconds)
            if len(pauses) == at:
                server.begin()

        monkeypatch.setattr("ss4rec.io.patience.time.sleep", pause)
        server.end()
        return told

    monkeypatch.setattr("ss4rec.io.patience._log.warning", lambda text, *values: told.append(text % values))
    return begin


def test_a_server_that_goes_away_while_batches_are_read(s3, away, tmp_path, ratings):
    """Training reads on where it was: the same batches, and two lines that say what happened.

    Seen to fail: without `patiently` in `_Raw.readinto` and in `open_input`.
    """
    out = to_path(f"{s3}/steady")
    prepare(ratings, out, rows_per_shard=5)
    options = {"batch_size": 8, "seed": 1}
    whole = [
        batch.items_T.tolist()
        for *_, batch in LocalSource(out, DataConfig(), **options).train_batches(0, 0, 2)
    ]
    source = LocalSource(out, DataConfig(), **options)
    told = away(at=1)
    found = [batch.items_T.tolist() for *_, batch in source.train_batches(0, 0, 2)]
    assert found == whole
    assert len(told) >= 2
    assert "s3://bucket/steady" in told[0]
    assert "the server does not answer; trying again for 600 s" in told[0]
    assert any("answers again after" in line for line in told)


@pytest.mark.timeout(300)
def test_a_training_that_reads_from_a_bucket_which_goes_away(s3, away, tmp_path, ratings):
    """The model is that of a training on local files, to the bit.

    Seen to fail: without `patiently` in `_Raw.readinto` and in `open_input`.
    """
    from tests.faults.small import equal, small

    remote = to_path(f"{s3}/trains")
    prepare(ratings, remote, rows_per_shard=9)
    prepare(ratings, tmp_path / "trains", rows_per_shard=9)
    config = small(**{"train.epochs": 2})
    data = data_folder(remote)
    told = away(at=1)
    train_alone(config, data, tmp_path / "remote", torch.device("cpu"))
    train_alone(config, tmp_path / "trains", tmp_path / "local", torch.device("cpu"))
    assert equal(tmp_path / "remote", tmp_path / "local")
    assert any("answers again" in line for line in told)


def test_a_server_that_goes_away_while_a_folder_is_prepared(s3, away, tmp_path, ratings, monkeypatch):
    """It is away when the third file is to be written.

    Seen to fail: without `patiently` in `write_whole`.
    """
    honest, writes, told = atomic._write_remote, [], []

    def write(path, data):
        writes.append(path)
        if len(writes) == 3:
            told.append(away(at=2))
        honest(path, data)

    monkeypatch.setattr(atomic, "_write_remote", write)
    prepare(ratings, to_path(f"{s3}/written"), rows_per_shard=9)
    prepare(ratings, tmp_path / "local", rows_per_shard=9)
    assert_same_folder(to_path(f"{s3}/written"), tmp_path / "local")
    assert writes[2] == writes[3] == writes[4]
    assert len(told[0]) == 2


def test_a_server_that_stays_away_is_one_sentence(s3, server, monkeypatch):
    """Seen to fail: with PATIENCE_S never looked at, the wait has no end."""
    monkeypatch.setattr("ss4rec.io.patience.PATIENCE_S", 1.0)
    monkeypatch.setattr("ss4rec.io.patience.FIRST_PAUSE_S", 1.5)  # each attempt of pyarrow's client takes 6 s
    server.end()
    try:
        with pytest.raises(
            DataError, match=r"s3://bucket/x: the server has not answered for 1 s .*it continues"
        ):
            to_path(f"{s3}/x").read_bytes()
    finally:
        server.begin()


def test_what_no_waiting_can_mend_is_raised_at_once(s3, monkeypatch):
    """Seen to fail: with every OSError taken for a server that is away."""
    monkeypatch.setattr("ss4rec.io.patience.time.sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(FileNotFoundError):
        to_path(f"{s3}/nothing").read_bytes()
    with pytest.raises(OSError, match=r"NO_SUCH_BUCKET|Not Found|404|does not exist"):
        write_whole(to_path("s3://no-such-bucket/x"), b"x")
    assert not to_path(f"{s3}/nothing").exists()
