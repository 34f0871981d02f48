"""A run and a protocol: whether the one may be tested by the other, and on which events."""

from __future__ import annotations

import pyarrow.parquet as pq

from ss4rec.config import RunConfig
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.tables import ITEMS_NAME
from ss4rec.errors import DataError, UsageError
from ss4rec.io.atomic import sha256_of
from ss4rec.protocol.plan import Plan, plan_of_run
from ss4rec.protocol.settings import Protocol
from ss4rec.runs.folder import ITEMS_FILE, RunFolder


def under_protocol(config: RunConfig, protocol: Protocol | None) -> RunConfig:
    """Return a run's configuration with the protocol by which it is tested; None: its own.

    Raises:
        UsageError: if the two differ in what trains, so that the run may have learned what is tested.
    """
    if protocol is None or protocol == config.protocol:
        return config
    own, other = config.protocol.training(), protocol.training()
    differences = [f"{name}: {own[name]} -> {other[name]}" for name in own if own[name] != other[name]]
    if differences:
        raise UsageError(
            f"the run was trained by protocol {config.protocol.name}, and {protocol.name} trains on other events "
            f"({', '.join(differences)}), so this test may hold what the run has learned; train a run with "
            f"--protocol {protocol.name}"
        )
    return config.model_copy(update={"protocol": protocol})


def run_plan(folder: RunFolder, config: RunConfig, data: PreparedFolder) -> Plan:
    """Work the protocol of `config` out for the data that a run was trained on.

    Raises:
        DataError: if the data has other items than the run.
    """
    plan = plan_of_run(config, data)
    path = folder.path / ITEMS_FILE
    if plan.items_I is None:
        same = sha256_of(path) == data.manifest.files[ITEMS_NAME].sha256
    else:
        same = pq.read_table(path, columns=["source_id"]).equals(plan.items(data).select(["source_id"]))
    if not same:
        raise DataError(
            f"{data} has other items than the run {folder.path.name} was trained on; "
            "give the prepared folder that the run was trained on"
        )
    return plan
