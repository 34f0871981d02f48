"""How many trials fit a cluster."""

import pytest

from ss4rec.cluster.placement import Cluster
from ss4rec.config import ResourceConfig
from ss4rec.errors import ResourceError
from tuning.plan import plan_trials

TWO_CARDS = Cluster(({"CPU": 16, "GPU": 2},))


@pytest.mark.parametrize(
    ("resources", "cluster", "options", "concurrent", "own"),
    [
        ({}, Cluster(({"CPU": 2},)), {}, 2, {"CPU": 1}),
        ({"cpus_per_worker": 2}, Cluster(({"CPU": 3}, {"CPU": 3})), {}, 2, {"CPU": 2}),
        ({}, TWO_CARDS, {}, 2, {"CPU": 1, "GPU": 1}),
        ({}, TWO_CARDS, {"trials_per_gpu": 4}, 8, {"CPU": 1, "GPU": 0.25}),
        ({"cpus_per_worker": 4}, TWO_CARDS, {"trials_per_gpu": 4}, 4, {"CPU": 4, "GPU": 0.25}),
        ({}, TWO_CARDS, {"trials_per_gpu": 4, "most": 3}, 3, {"CPU": 1, "GPU": 0.25}),
        ({"workers": 2, "gpu": "no"}, Cluster(({"CPU": 8},)), {}, 2, {"memory": 1.0}),
        ({"workers": 2, "gpu": "no"}, Cluster(({"CPU": 8},)), {"ray_data": False}, 4, {"memory": 1.0}),
        ({"workers": 2}, Cluster(({"CPU": 32, "GPU": 4},)), {}, 2, {"memory": 1.0}),
    ],
)
def test_concurrency_is_computed_from_what_there_is(resources, cluster, options, concurrent, own):
    plan = plan_trials(ResourceConfig(**resources), cluster, **options)
    assert plan.concurrent == concurrent
    assert plan.resources == own


@pytest.mark.parametrize(
    ("resources", "cluster", "options", "message"),
    [
        ({"cpus_per_worker": 4}, Cluster(({"CPU": 2},)), {}, "do not fit"),
        ({"workers": 2}, Cluster(({"CPU": 2},)), {}, "would wait for ever"),
        ({}, Cluster(({"CPU": 2},)), {"trials_per_gpu": 2}, "no GPU"),
        ({"workers": 2}, TWO_CARDS, {"trials_per_gpu": 2}, "needs one-worker trials"),
    ],
)
def test_a_trial_that_cannot_run_is_refused_before_the_sweep(resources, cluster, options, message):
    with pytest.raises(ResourceError, match=message):
        plan_trials(ResourceConfig(**resources), cluster, **options)
