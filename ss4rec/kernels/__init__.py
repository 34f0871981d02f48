"""Choice of the implementations of the scans, of what surrounds layers, and of the loss.

`auto` takes the fastest that is there and names it; what is asked for by name is taken or refused, never replaced.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from ss4rec.errors import BackendError
from ss4rec.kernels.cards import MAX_WIDTH
from ss4rec.kernels.inputs import SelectiveInputs
from ss4rec.kernels.steps import relation_state
from ss4rec.model.segments import Segments


@dataclass(frozen=True)
class TimeBackend:
    """An implementation of the time-aware scan; signature: `ss4rec.kernels.naive.time_scan`."""

    name: str
    time_scan: Callable[..., Tensor]


@dataclass(frozen=True)
class RelationBackend:
    """An implementation of the relation-aware scan and its convolution; signatures as in `ss4rec.kernels.naive`."""

    name: str
    causal_conv: Callable[..., Tensor]
    selective_scan: Callable[..., Tensor]
    selective_scan_left: Callable[..., tuple[Tensor, Tensor]]
    """The scan and the state after each sequence, `[S, E, N]`; without gradients."""


@dataclass(frozen=True)
class LayerBackend:
    """An implementation of what surrounds a layer's own work; signatures as in `ss4rec.kernels.layer_torch`."""

    name: str
    residual_norm: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]


def resolve_time_backend(name: str, device: torch.device | str) -> TimeBackend:
    """Return the time-aware scan called `name` (`auto`, `reference`, `triton`) for tensors on `device`.

    Raises:
        BackendError: if it was asked for by name and cannot run here, with what to install.
    """
    kind = torch.device(device).type
    if name == "auto":
        name = _triton_or_reference(kind)
    module = _load(name, kind, {"reference": "time_torch", "triton": "time_triton"})
    return TimeBackend(name, module.time_scan)


def resolve_layer_backend(name: str, device: torch.device | str) -> LayerBackend:
    """Return what surrounds layers, called `name` (`auto`, `reference`, `triton`), for tensors on `device`.

    Raises:
        BackendError: if it was asked for by name and cannot run here, with what to install.
    """
    kind = torch.device(device).type
    if name == "auto":
        name = _triton_or_reference(kind)
    module = _load(name, kind, {"reference": "layer_torch", "triton": "layer_triton"})
    return LayerBackend(name, module.residual_norm, module.swiglu)


def resolve_loss_backend(name: str, device: torch.device | str, dim: int = 1) -> str:
    """Return which implementation of cross entropy `name` (`auto`, `reference`, `triton`) means on `device`.

    Triton's holds rows of at most `MAX_WIDTH` values, so `auto` takes the reference for a wider model (`dim`).

    Raises:
        BackendError: if it was asked for by name and cannot run here, with what to install.
    """
    kind = torch.device(device).type
    if name == "auto":
        return _triton_or_reference(kind) if dim <= MAX_WIDTH else "reference"
    if name != "reference":
        _load(name, kind, {"triton": "softmax_triton"})
    if name == "triton" and dim > MAX_WIDTH:
        raise BackendError(
            f"backend 'triton' of the loss holds rows of at most {MAX_WIDTH} values, model.dim is {dim}; "
            "set loss.backend=reference or loss.kind=sampled_softmax"
        )
    return name


def resolve_relation_backend(name: str, device: torch.device | str) -> RelationBackend:
    """Return the relation-aware scan called `name` (`auto`, `reference`, `mamba_ssm`, `triton`) for `device`.

    Raises:
        BackendError: if it was asked for by name and cannot run here, with what to install.
    """
    kind = torch.device(device).type
    if name == "auto":
        faster = ["triton", "mamba_ssm"] if kind == "cuda" else []
        name = next((one for one in faster if _missing(one) is None), "reference")
    files = {"reference": "relation_torch", "mamba_ssm": "relation_mamba", "triton": "relation_triton"}
    module = _load(name, kind, files)
    left = getattr(module, "selective_scan_left", None) or _then_states(module.selective_scan)
    return RelationBackend(name, module.causal_conv, module.selective_scan, left)


def _then_states(scan: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return a scan that also gives the states after each sequence, for a backend whose scan keeps them to itself."""

    def scan_left(inputs: SelectiveInputs, segments: Segments) -> tuple[Tensor, Tensor]:
        left_SEN = relation_state(
            inputs.u_TE, inputs.delta_TE, inputs.A_EN, inputs.B_TN, inputs.delta_bias_E, segments
        )
        return scan(inputs, segments), left_SEN

    return scan_left


def _triton_or_reference(kind: str) -> str:
    """Return what `auto` takes where only these two exist."""
    return "triton" if kind == "cuda" and _missing("triton") is None else "reference"


@cache
def _missing(name: str) -> str | None:
    """Return what has to be installed before backend `name` can run, or None."""
    if name == "triton" and find_spec("triton") is None:
        return "the package triton is missing; a CUDA build of torch brings it (https://pytorch.org)"
    absent = [one for one in ("mamba_ssm", "causal_conv1d") if find_spec(one) is None]
    if name == "mamba_ssm" and absent:
        return f"missing: {', '.join(absent)}; pip install 'ss4rec[gpu]' with a CUDA compiler there (docs/install.md)"
    return None


def _load(name: str, device_type: str, files: dict[str, str]) -> ModuleType:
    """Import the module of backend `name`, or say why it cannot run on this kind of device."""
    if name not in files:
        raise BackendError(f"backend {name!r} is unknown; choose one of: auto, {', '.join(files)}")
    if name != "reference" and (reason := _missing(name)) is not None:
        raise BackendError(f"backend {name!r}: {reason}")
    if name != "reference" and device_type != "cuda":
        raise BackendError(
            f"backend {name!r} needs a CUDA device, the model is on {device_type!r}; use 'reference'"
        )
    try:
        return importlib.import_module(f"ss4rec.kernels.{files[name]}")
    except ImportError as error:
        raise BackendError(
            f"backend {name!r} is installed but cannot be imported ({error}); reinstall it or choose 'reference'"
        ) from error
