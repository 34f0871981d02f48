"""The relation-aware scan and convolution by the mamba-ssm and causal-conv1d packages (CUDA).

Both know only rectangles of layout `[S, E, L]`, so the packed rows are padded at the right; both operations are causal,
so the padding changes nothing. Install with `pip install ss4rec[gpu]` (needs nvcc): docs/install.md.
"""

from __future__ import annotations

from torch import Tensor

from ss4rec.errors import BackendError
from ss4rec.kernels.inputs import SelectiveInputs
from ss4rec.model.segments import Segments


def causal_conv(values_TE: Tensor, weight_EK: Tensor, bias_E: Tensor, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.causal_conv` with `causal_conv1d_fn`.

    Raises:
        BackendError: if the kernel does not have this number of taps (it has 2, 3 and 4).
    """
    from causal_conv1d import causal_conv1d_fn

    taps = weight_EK.shape[1]
    if taps not in (2, 3, 4):
        raise BackendError(
            f"model.conv_width={taps}: causal-conv1d has 2, 3 and 4 taps; set model.relation_backend=triton"
        )
    kind = values_TE.dtype
    out_SEL = causal_conv1d_fn(
        _rectangle(values_TE, segments), weight_EK.to(kind), bias_E.to(kind), activation="silu"
    )
    return segments.unpad(out_SEL.transpose(1, 2))


def selective_scan(inputs: SelectiveInputs, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.selective_scan` with `selective_scan_fn`.

    The kernel wants one type for the five token inputs (that of `u_TE`) and float32 for A, D and the bias; its state
    is float32.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u_TE, delta_TE, A_EN, B_TN, C_TN, D_E, z_TE, delta_bias_E = inputs
    delta, B, C, z = (_rectangle(values.to(u_TE.dtype), segments) for values in (delta_TE, B_TN, C_TN, z_TE))
    y_SEL = selective_scan_fn(
        _rectangle(u_TE, segments),
        delta,
        A_EN.float(),
        B,
        C,
        D_E.float(),
        z=z,
        delta_bias=delta_bias_E.float(),
        delta_softplus=True,
    )
    return segments.unpad(y_SEL.transpose(1, 2))


def _rectangle(values_TX: Tensor, segments: Segments) -> Tensor:
    """Pad `[T, X]` to `[S, X, L]`, contiguous along time."""
    return segments.pad(values_TX).transpose(1, 2).contiguous()
