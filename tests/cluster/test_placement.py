"""The placement rule on made-up clusters."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ss4rec.cluster import placement as module
from ss4rec.cluster.placement import Cluster, place, preflight
from ss4rec.config import ResourceConfig
from ss4rec.errors import ResourceError


def test_leaves_cpus_for_ray_data():
    placement = preflight(ResourceConfig(workers=1), cluster_resources={"CPU": 2.0})
    assert placement.data_cpus == 1.0
    assert not placement.use_gpu
    assert placement.worker_resources == {"CPU": 2.0}, "the data's CPU comes with the worker"
    assert "training on CPUs" in placement.notes[0]


def test_refuses_workers_that_take_every_cpu():
    with pytest.raises(ResourceError) as caught:
        preflight(ResourceConfig(workers=2), cluster_resources={"CPU": 2.0})
    message = str(caught.value)
    for part in (
        "2 worker(s) x 1 CPU",
        "cluster's 2 CPUs",
        "leave 0",
        "--workers 1",
        "cpus_per_worker=0.5",
        "source=local",
    ):
        assert part in message


def test_local_reading_needs_no_cpu_beside_the_workers():
    placement = preflight(ResourceConfig(workers=2), cluster_resources={"CPU": 2.0}, ray_data=False)
    assert placement.data_cpus == 0.0


@pytest.mark.parametrize(("gpu", "gpus", "used"), [("auto", 2, True), ("auto", 0, False), ("no", 2, False)])
def test_gpu_choice(gpu, gpus, used):
    placement = preflight(
        ResourceConfig(workers=2, gpu=gpu), cluster_resources={"CPU": 8.0, "GPU": float(gpus)}
    )
    assert placement.use_gpu is used
    assert ("GPU" in placement.worker_resources) is used


@pytest.mark.parametrize(
    ("gpu", "gpus", "fix"), [("yes", 0, "machine with a GPU"), ("auto", 1, "--workers 1")]
)
def test_too_few_gpus_are_refused_not_replaced_by_cpus(gpu, gpus, fix):
    with pytest.raises(ResourceError, match=fix):
        preflight(ResourceConfig(workers=2, gpu=gpu), cluster_resources={"CPU": 8.0, "GPU": float(gpus)})


def test_workers_must_fit_into_single_nodes():
    cluster = Cluster(({"CPU": 4.0}, {"CPU": 4.0}))
    assert place(ResourceConfig(workers=2, cpus_per_worker=3), cluster).worker_resources == {"CPU": 4.0}
    with pytest.raises(ResourceError, match=r"largest 4.*hold 0"):
        place(ResourceConfig(workers=1, cpus_per_worker=5), cluster)


def test_gpus_without_cpus_beside_them_do_not_count():
    cluster = Cluster(({"CPU": 1.0, "GPU": 4.0}, {"CPU": 16.0}))
    with pytest.raises(ResourceError, match="hold 1"):
        place(ResourceConfig(workers=2, gpu="yes"), cluster)


def test_busy_resources_are_named():
    cluster = Cluster(({"CPU": 4.0, "GPU": 2.0},), busy={"CPU": 1.0, "GPU": 2.0})
    notes = " ".join(place(ResourceConfig(workers=2), cluster).notes)
    assert "2 of 2 GPUs are in use" in notes
    assert "CPUs are in use" not in notes


def test_autoscaled_groups_count_at_their_largest():
    nodes = module._grown([({"CPU": 0.0}, 1), ({"CPU": 8.0, "GPU": 1.0}, 3), ({"CPU": 1.0}, -1)], unlimited=2)
    assert len(nodes) == 6
    assert Cluster(nodes).total("GPU") == 3.0


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    nodes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    workers=st.integers(1, 6),
    each=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
)
def test_matches_placing_workers_one_by_one(nodes, workers, each):
    free, placed = [float(cpus) for cpus in nodes], 0
    for i in range(len(free)):
        while free[i] >= each and placed < workers:
            free[i], placed = free[i] - each, placed + 1
    possible = placed == workers and sum(free) >= 1.0
    config = ResourceConfig(workers=workers, cpus_per_worker=each, data_cpus=1.0)
    cluster = Cluster(tuple({"CPU": float(cpus)} for cpus in nodes))
    if possible:
        placement = place(config, cluster)
        if placement.data_with_workers:
            assert 1.0 <= placement.data_cpus <= sum(free)
            bundle = placement.worker_resources["CPU"]
            assert sum(cpus // bundle for cpus in nodes) >= workers
        else:
            assert placement.data_cpus == sum(free)
    else:
        with pytest.raises(ResourceError):
            place(config, cluster)


@pytest.mark.parametrize(
    ("nodes", "workers", "each"),
    [
        ([2], 1, 2.0),  # one worker, one CPU for its data
        ([8], 1, 2.0),  # room for more does not make it greedy: another job may come
        ([3], 2, 1.5),  # both share the one that is left
        ([4, 4], 2, 2.0),
        ([1, 1, 1], 2, 1.0),  # no node holds a worker with its share: the tasks take what is left
    ],
)
def test_the_cpus_of_the_data_come_with_the_workers(nodes, workers, each):
    cluster = Cluster(tuple({"CPU": float(cpus)} for cpus in nodes))
    placement = place(ResourceConfig(workers=workers), cluster)
    assert placement.worker_resources == {"CPU": each}
    assert placement.data_with_workers == (each > 1)
    assert placement.data_cpus == (each - 1) * workers or placement.data_cpus == sum(nodes) - workers
    assert ("reserved with them" in str(placement)) == (each > 1)


def test_local_reading_and_elastic_groups_reserve_nothing_for_data():
    cluster = Cluster(({"CPU": 8.0},))
    assert place(ResourceConfig(workers=2), cluster, ray_data=False).worker_resources == {"CPU": 1.0}
    assert place(ResourceConfig(workers=1, max_workers=4), cluster).worker_resources == {"CPU": 1.0}
