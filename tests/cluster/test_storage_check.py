"""The storage checks on real folders."""

from collections import namedtuple

import pytest

from ss4rec.cluster import storage_check as module
from ss4rec.cluster.storage_check import check_storage, nearest_existing
from ss4rec.errors import ResourceError


def test_storage_is_created_and_left_clean(tmp_path):
    check_storage(str(tmp_path / "a" / "b"), need_bytes=1)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_storage_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        check_storage(str(tmp_path / "file" / "runs"))


def test_bucket_is_refused():
    with pytest.raises(ResourceError, match="s3://bucket/runs is no folder"):
        check_storage("s3://bucket/runs")


def test_full_disk_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(10, 10, 5 << 20))
    with pytest.raises(ResourceError, match="5 MiB free, at least 1,024 MiB"):
        check_storage(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_node_with_another_folder_is_found(tmp_path):
    with module._marker(str(tmp_path / "here")) as marker:
        assert module._probe(marker) is None
        elsewhere = tmp_path / "there" / marker.name
        assert module._probe(elsewhere) == "the driver's marker file is not there"
        marker.write_text("torn")
        assert "changed" in module._probe(marker)
    assert not marker.exists()


def test_nearest_existing(tmp_path):
    assert nearest_existing(str(tmp_path / "x" / "y")) == tmp_path
