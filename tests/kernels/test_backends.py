"""Choice of backends: named, refused with a way out, never replaced."""

from __future__ import annotations

import pytest
import torch

import ss4rec.kernels as kernels
from ss4rec.config import ModelConfig
from ss4rec.errors import BackendError
from ss4rec.kernels import layer_torch, resolve_layer_backend, resolve_relation_backend, resolve_time_backend
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SS4Rec


def test_auto_on_the_cpu_is_the_reference():
    assert resolve_time_backend("auto", "cpu").name == "reference"
    assert resolve_relation_backend("auto", "cpu").name == "reference"
    assert resolve_layer_backend("auto", "cpu").name == "reference"


@pytest.mark.parametrize("resolve", [resolve_time_backend, resolve_relation_backend, resolve_layer_backend])
def test_an_unknown_name_lists_the_known_ones(resolve):
    with pytest.raises(BackendError, match=r"'cuda' is unknown.*reference.*triton"):
        resolve("cuda", "cpu")


def test_a_missing_package_is_named_with_its_installation(monkeypatch):
    kernels._missing.cache_clear()
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"mamba_ssm, causal_conv1d; pip install"):
        resolve_relation_backend("mamba_ssm", "cuda")
    with pytest.raises(BackendError, match="triton is missing"):
        resolve_time_backend("triton", "cuda")
    assert resolve_relation_backend("auto", "cuda").name == "reference"
    kernels._missing.cache_clear()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({}, "triton"),
        ({"norm": "pre"}, "reference"),
        ({"norm": "pre", "feed_forward": 2.0}, "triton (norms: reference)"),
    ],
)
def test_the_record_names_what_really_surrounds_layers(monkeypatch, shape, expected):
    triton = kernels.LayerBackend("triton", layer_torch.residual_norm, layer_torch.swiglu)
    monkeypatch.setattr("ss4rec.model.ss4rec.resolve_layer_backend", lambda name, device: triton)
    assert SS4Rec(ModelConfig(dim=8, **shape), num_items=5).backends["layer"] == expected


def test_a_gpu_backend_is_refused_on_the_cpu_also_inside_the_model(monkeypatch):
    monkeypatch.setattr(kernels, "_missing", lambda name: None)
    model = SS4Rec(ModelConfig(dim=8, relation_backend="mamba_ssm"), num_items=5)
    for call in (
        lambda: model.backends,
        lambda: model.encode(torch.tensor([1]), torch.zeros(1), Segments.from_lengths([1])),
    ):
        with pytest.raises(BackendError, match=r"'mamba_ssm' needs a CUDA device.*'cpu'"):
            call()
