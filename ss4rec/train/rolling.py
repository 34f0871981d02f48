"""One configuration trained and tested at several cuts in time, with the mean and the spread over them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ss4rec.config import RunConfig, override
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.errors import ConfigError
from ss4rec.evaluation.evaluator import EvalResult
from ss4rec.io.atomic import write_json
from ss4rec.train.run import train

ROLLING_FILE = "rolling.json"


def train_rolling(
    config: RunConfig,
    data: PreparedFolder | Path,
    run_dir: Path,
    cuts: Sequence[float | int | str],
    *,
    address: str | None = None,
    skip_bad_shards: bool = False,
) -> dict[str, Any]:
    """Train and test once for each cut, in `run_dir/cut-CUT`, and write `run_dir/rolling.json`.

    The same call continues where it stopped: cuts that are done are not trained again.

    Args:
        config: the resolved configuration; its `protocol.cut` is replaced.
        data: a prepared folder, or its absolute path.
        run_dir: absolute path of a folder for all cuts.
        cuts: values of `protocol.cut`.
        address: Ray cluster, as in `ss4rec.train.run.train`.
        skip_bad_shards: as in `ss4rec.train.run.train`.

    Returns:
        `cuts`; `runs`, the result of each; `summary`, for each scorer and metric in the protocol's own setting the
        `mean`, the `sd` (of a sample) and the `values` over cuts.

    Raises:
        ConfigError: if the protocol has no cut.
        SS4RecError: as `ss4rec.train.run.train`.
    """
    if config.protocol.kind != "global_time":
        raise ConfigError("--cuts needs a protocol with a cut; add --protocol time-to-split")
    if not config.evaluation.at_end:
        raise ConfigError("--cuts compares tests; set evaluation.at_end=true")
    label = config.protocol.name
    resolved = [
        override(config, {"protocol.cut": cut, "protocol.name": f"{label} with cut={cut}"}) for cut in cuts
    ]
    runs = {
        str(cut): train(
            one,
            data,
            run_dir / f"cut-{re.sub(r'[^0-9A-Za-z.-]', '-', str(cut))}",
            address=address,
            skip_bad_shards=skip_bad_shards,
        )
        for cut, one in zip(cuts, resolved, strict=True)
    }
    found = {
        "protocol": config.protocol.model_dump(mode="json"),
        "cuts": list(cuts),
        "runs": runs,
        "summary": over_cuts([run["test"] for run in runs.values()]),
    }
    write_json(run_dir / ROLLING_FILE, found)
    return found


def over_cuts(tests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return mean, standard deviation and values of each metric over cuts, by scorer.

    Args:
        tests: results by scorer (`EvalResult` as plain JSON values) of each cut.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for name in tests[0]:
        rows = []
        for test in tests:
            result = EvalResult.model_validate(test[name])
            rows.append(result.setting(result.protocol.seen, result.protocol.target_time).metrics)
        summary[name] = {
            metric: {
                "mean": float(np.mean([row[metric] for row in rows])),
                "sd": float(np.std([row[metric] for row in rows], ddof=1)),
                "values": [row[metric] for row in rows],
            }
            for metric in rows[0]
        }
    return summary
