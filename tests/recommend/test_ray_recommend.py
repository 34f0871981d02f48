"""The job on Ray: the bytes of one process, also when a worker is killed on the way."""

import os
import signal
from dataclasses import replace

import pytest

from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import NonFiniteError, ResourceError
from ss4rec.recommendations.job import recommend_run
from ss4rec.recommendations.options import RecommendOptions
from tests.recommend.conftest import content

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def one_ray(small_cluster):
    """The cluster of all tests of the process."""


def deadly_folder():
    """Return a class that goes to workers by value: they cannot import this file."""

    class Deadly(PreparedFolder):
        """A folder of which one shard kills the process that reads it, the first time."""

        def __reduce__(self):
            return Deadly, (self.path, self.manifest)

        def read_shard(self, number):
            mark = self.path.parent / "killed"
            if number == 17 and not mark.exists():
                mark.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read_shard(number)

    return Deadly


def test_workers_write_the_same_bytes_also_when_one_is_killed(run, sharded, tmp_path):
    from ss4rec.recommendations.ray_recommend import on_ray

    options, folder = RecommendOptions(k=5), deadly_folder()
    recommend_run(run, tmp_path / "right", sharded, options)

    def deadly(work, numbers):
        yield from on_ray(2, gpu=False)(
            replace(work, data=folder(work.data.path, work.data.manifest)), numbers
        )

    mark = sharded.path.parent / "killed"
    recommend_run(run, tmp_path / "out", sharded, options, runner=deadly)
    assert int(mark.read_text()) != os.getpid()
    assert content(tmp_path / "out") == content(tmp_path / "right")


def test_an_actor_with_two_calls_under_way_writes_the_same_bytes(run, sharded, tmp_path):
    from ss4rec.recommendations.ray_recommend import on_ray

    options = RecommendOptions(k=5)
    recommend_run(run, tmp_path / "right", sharded, options)
    notes = []
    runner = on_ray(1, gpu=False, calls=2, tell=notes.append)
    manifest = recommend_run(run, tmp_path / "out", sharded, options, runner=runner)
    assert content(tmp_path / "out") == content(tmp_path / "right")
    assert sum(note.files for note in notes) == len(manifest.files)
    starts = [note.start for note in notes if note.start]
    assert len(starts) == 1
    assert [*starts[0]] == ["actor_started_s", "imports_s", "cuda_s", "model_s", "first_file_s"]
    assert [*starts[0].values()] == sorted(starts[0].values())


def test_errors_arrive_as_they_are(run, sharded, tmp_path):
    from ss4rec.recommendations.ray_recommend import on_ray

    with pytest.raises(ResourceError, match="9 workers that recommend need a CPU each"):
        recommend_run(run, tmp_path / "a", sharded, RecommendOptions(), runner=on_ray(9, gpu=False))

    class Broken(PreparedFolder):
        def __reduce__(self):
            return Broken, (self.path, self.manifest)

        def read_shard(self, number):
            raise NonFiniteError("the scores are NaN")

    def broken(work, numbers):
        yield from on_ray(1, gpu=False)(
            replace(work, data=Broken(work.data.path, work.data.manifest)), numbers
        )

    with pytest.raises(NonFiniteError, match="the scores are NaN"):
        recommend_run(run, tmp_path / "b", sharded, RecommendOptions(), runner=broken)
