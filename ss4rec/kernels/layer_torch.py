"""What surrounds a layer's own work, in plain torch: dropout, residual sum and layer norm, and SwiGLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def residual_norm(
    values_TD: Tensor,
    branch_TD: Tensor,
    weight_D: Tensor,
    bias_D: Tensor,
    eps: float,
    dropout: float = 0.0,
    layer_dropout: float = 0.0,
) -> Tensor:
    """Return LayerNorm(values + drop(branch)), `[T, D]` (layer norm: arXiv 1607.06450).

    Args:
        values_TD: the residual stream.
        branch_TD: what a layer made of it.
        weight_D: scale of the norm.
        bias_D: shift of the norm.
        eps: added to the variance.
        dropout: probability that a single value of the branch is dropped; see `drop`.
        layer_dropout: probability that a token's whole branch is.
    """
    values_TD = values_TD + drop(branch_TD, dropout, layer_dropout)
    return F.layer_norm(values_TD, weight_D.shape, weight_D, bias_D, eps)


def drop(branch_TD: Tensor, dropout: float, layer_dropout: float) -> Tensor:
    """Drop single values, and whole tokens' values; what is left grows so that the mean stays."""
    branch_TD = F.dropout(branch_TD, dropout)
    if layer_dropout:
        kept_T1 = torch.rand_like(branch_TD[:, :1]) >= layer_dropout
        branch_TD = branch_TD * kept_T1 / (1.0 - layer_dropout)
    return branch_TD


def swiglu(gate_up_T2F: Tensor) -> Tensor:
    """Return SiLU(gate) ⊙ up, `[T, F]`, of gates and values beside one another (arXiv 2002.05202)."""
    gate_TF, up_TF = gate_up_T2F.chunk(2, dim=1)
    return F.silu(gate_TF) * up_TF
