"""Columns about items, users and events on Ray: the same batches and ranks as in one process."""

import dataclasses

import numpy as np
import pytest
import torch

from ss4rec.config import RunConfig, override
from ss4rec.data.batches.ray_source import RaySource
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepare.engine import prepare
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import EventTargets
from ss4rec.data.sources import TableOptions
from ss4rec.evaluation.alone import evaluate_alone
from ss4rec.evaluation.ray_evaluate import evaluate_folder
from ss4rec.protocol.plan import plan_of_run
from ss4rec.train.worker import train_alone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("small_cluster")]
FIELDS = {
    "model.dim": 8, "model.blocks": 1, "model.time_states": 4, "model.relation_states": 4, "model.gap_map": "log",
    "model.dropout": 0.0, "model.id_dropout": 0.0, "data.max_len": 10, "data.overlap": 2, "train.epochs": 2,
    "train.batch_size": 16, "tracking.wandb": "disabled", "resources.gpu": "no", "evaluation.at_end": False,
    "protocol.kind": "global_time", "protocol.cut": 0.8, "protocol.validation": "last_train_item",
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    rows = [
        f"{user},{rng.integers(12 + (place > 6) * 4)},{10**9 + 1000 * place + user},{'ab'[rng.integers(2)]}"
        for user in range(80)
        for place in range(10)
    ]
    (folder / "shop.csv").write_text("user,item,time,kind\n" + "\n".join(rows) + "\n")
    (folder / "items.csv").write_text("item,group\n" + "\n".join(f"{i},g{i % 3}" for i in range(16)) + "\n")
    (folder / "users.csv").write_text("user,town\n" + "\n".join(f"{u},t{u % 3}" for u in range(80)) + "\n")
    prepare(
        folder / "shop.csv", folder / "data", k_core=0, rows_per_shard=20, columns=TableOptions(kind_column="kind"),
        targets=EventTargets(column="kind", values=("a",)),
        item_features=folder / "items.csv", user_features=folder / "users.csv",
    )  # fmt: skip
    return folder / "data"


def test_batches_and_ranks_are_those_of_one_process(shop, tmp_path):
    data, one = PreparedFolder.open(shop), override(RunConfig(), FIELDS)
    plan = plan_of_run(one, data)
    place = {"batch_size": 16, "seed": 3, "plan": plan}
    through_ray, local = RaySource(data, one.data, **place), LocalSource(data, one.data, **place)
    for a, b in zip(through_ray.eval_batches("test", 30), local.eval_batches("test", 30), strict=True):
        assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    train_alone(one, data, tmp_path / "run", torch.device("cpu"))
    found = evaluate_folder(tmp_path / "run", data)
    expected = evaluate_alone(tmp_path / "run", data, torch.device("cpu"))
    assert found.cold_ranked == expected.cold_ranked > 0
    for setting, other in zip(found.settings, expected.settings, strict=True):
        assert setting.cold == pytest.approx(other.cold, abs=1e-6)
