"""The state step and the scores as ONNX, compared with the model in onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ss4rec.errors import UsageError
from ss4rec.export.torch_export import (
    compare,
    describe,
    programs,
    require_exportable,
    require_new,
    write_items,
)
from ss4rec.io.atomic import new_folder, write_json
from ss4rec.recommender import load

NAMES = {
    "step": (("rows", "items", "gaps", "hours", "ratings", "profiles"), ("new_rows", "outputs")),
    "score": (("outputs", "elapsed"), ("scores",)),
}
"""Inputs and outputs of each file."""
OPSET = 18
MOST_UNUSED = 16
"""Events of the encoder, which is not written here."""


def export_onnx(run: Path, out: Path) -> dict[str, Any]:
    """Write `step.onnx` and `score.onnx` of a run into a new folder; returns `export.json`.

    Raises:
        UsageError: if a package is missing, the folder exists, or the model has what no program holds.
        ExportError: if onnxruntime computes something else than the model; nothing is left behind.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(f"export to ONNX needs {', '.join(missing)}; pip install 'ss4rec[onnx]'")
    require_new(out)
    recommender = load(run)
    model = recommender.model.requires_grad_(False)
    require_exportable(model)
    with new_folder(out) as draft:
        errors = {}
        for name, (inputs, outputs) in NAMES.items():
            module, example, shapes = programs(model, MOST_UNUSED)[name]
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of the exporter's own parts
                torch.onnx.export(
                    module,
                    example,
                    draft / f"{name}.onnx",
                    input_names=inputs,
                    output_names=outputs,
                    dynamic_shapes=shapes,
                    opset_version=OPSET,
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
            errors[name] = compare(name, _session(draft / f"{name}.onnx"), model)
        facts = describe(recommender, 0) | {"largest_error": errors}
        write_items(run, draft)
        write_json(draft / "export.json", facts)
    return facts


def _session(path: Path) -> Callable[..., Any]:
    """Return a function that runs a file in onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*arguments: Tensor) -> Any:
        given = dict(zip(NAMES[path.stem][0], (one.numpy() for one in arguments), strict=True))
        found = session.run(None, {name: given[name] for name in names})
        tensors = tuple(torch.from_numpy(one) for one in found)
        return tensors if len(tensors) > 1 else tensors[0]

    return run
