"""The time-aware scan in plain torch: complex arithmetic, one in-place step per event over all sequences at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ss4rec.kernels.inputs import TimeSystem
from ss4rec.model.segments import Segments

SERIES_RADIUS = 0.02
"""Below this |z| the derivative of (e^z - 1)/z comes from its series: the closed form loses eps/|z| to cancellation."""


def time_scan(drive_T2P: Tensor, gaps_T: Tensor, system: TimeSystem, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.time_scan` with hand-written gradients.

    Arithmetic is in the type of Λ (float32 or float64). Λ must stay above 1e-15 in magnitude.
    """
    states_T2P: Tensor = _TimeScan.apply(drive_T2P, system.steps(gaps_T), *system[:2], segments)  # type: ignore[no-untyped-call]  # torch leaves it so
    return states_T2P


class _TimeScan(torch.autograd.Function):
    """States of the scan for given steps; rows are in packed order except while stepping."""

    @staticmethod
    def forward(
        ctx: Any,
        drive_T2P: Tensor,
        steps_TP: Tensor,
        lambda_re_P: Tensor,
        lambda_im_P: Tensor,
        segments: Segments,
    ) -> Tensor:
        """Return the states, real and imaginary halves side by side, `[T, 2P]`."""
        lambda_P = torch.complex(lambda_re_P, lambda_im_P)
        drive_TP = _to_complex(drive_T2P.to(lambda_re_P.dtype))
        decay_TP, coefficient_TP = _discretise(lambda_P, steps_TP)
        states_TP = _scan(decay_TP, coefficient_TP * drive_TP, segments)
        ctx.save_for_backward(drive_TP, steps_TP, lambda_P, decay_TP, coefficient_TP, states_TP)
        ctx.segments = segments
        ctx.drive_type = drive_T2P.dtype
        return _to_halves(states_TP)

    @staticmethod
    def backward(ctx: Any, grad_T2P: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of drive `[T, 2P]`, steps `[T, P]` and Λ's real and imaginary parts `[P]`."""
        drive_TP, steps_TP, lambda_P, decay_TP, coefficient_TP, states_TP = ctx.saved_tensors
        grad_TP = _scan_adjoint(decay_TP, _to_complex(grad_T2P.to(steps_TP.dtype)), ctx.segments)
        previous_TP = states_TP.roll(1, 0)
        previous_TP[ctx.segments.first_S] = 0
        # For a holomorphic y = f(z) the gradient (d/dRe + i d/dIm) goes back through conj(f').
        grad_decay_TP = grad_TP * previous_TP.conj()
        grad_coefficient_TP = grad_TP * drive_TP.conj()
        grad_steps_TP = (
            grad_decay_TP * (lambda_P * decay_TP).conj() + grad_coefficient_TP * decay_TP.conj()
        ).real
        slope_TP = _coefficient_slope(lambda_P, steps_TP, decay_TP, coefficient_TP)
        grad_lambda_P = (
            grad_decay_TP * (steps_TP * decay_TP).conj() + grad_coefficient_TP * slope_TP.conj()
        ).sum(0)
        grad_drive_T2P = _to_halves(grad_TP * coefficient_TP.conj()).to(ctx.drive_type)
        return grad_drive_T2P, grad_steps_TP, grad_lambda_P.real, grad_lambda_P.imag, None


def _discretise(lambda_P: Tensor, steps_TP: Tensor) -> tuple[Tensor, Tensor]:
    """Return e^(Λs) and the zero-order hold's (e^(Λs) - 1)/Λ, both accurate for small Λs.

    With Λs = a + ib: Re(e^z - 1) = expm1(a) cos b - 2 sin²(b/2), which subtracts nothing from one.
    """
    a_TP = lambda_P.real * steps_TP
    b_TP = lambda_P.imag * steps_TP
    cos_TP, sin_TP = torch.cos(b_TP), torch.sin(b_TP)
    shrink_TP = torch.expm1(a_TP)
    imag_TP = (shrink_TP + 1) * sin_TP
    decay_TP = torch.complex((shrink_TP + 1) * cos_TP, imag_TP)
    minus_one_TP = torch.complex(shrink_TP * cos_TP - 2 * torch.sin(b_TP / 2).square(), imag_TP)
    return decay_TP, minus_one_TP * lambda_P.reciprocal()


def _coefficient_slope(
    lambda_P: Tensor, steps_TP: Tensor, decay_TP: Tensor, coefficient_TP: Tensor
) -> Tensor:
    """Return d/dΛ of (e^(Λs) - 1)/Λ = s² φ'(Λs) with φ(z) = (e^z - 1)/z."""
    z_TP = lambda_P * steps_TP
    series_TP = steps_TP.square() * (0.5 + z_TP * (1 / 3 + z_TP * (1 / 8 + z_TP * (1 / 30 + z_TP / 144))))
    closed_TP = (steps_TP * decay_TP - coefficient_TP) * lambda_P.reciprocal()
    return torch.where(z_TP.abs() < SERIES_RADIUS, series_TP, closed_TP)


def _scan(decay_TP: Tensor, drive_TP: Tensor, segments: Segments) -> Tensor:
    """Return x_k = decay_k x_(k-1) + drive_k in packed order, 0 before each sequence."""
    layout = segments.time_major
    decays = decay_TP.index_select(0, layout.order_T).split(layout.active)
    rows_TP = drive_TP.index_select(0, layout.order_T)
    states = rows_TP.split(layout.active)
    for step in range(1, len(states)):
        states[step].addcmul_(decays[step], states[step - 1][: layout.active[step]])
    return rows_TP.index_select(0, layout.inverse_T)


def _scan_adjoint(decay_TP: Tensor, grad_TP: Tensor, segments: Segments) -> Tensor:
    """Return g_k = grad_k + conj(decay_(k+1)) g_(k+1) in packed order."""
    layout = segments.time_major
    decays = decay_TP.conj().resolve_conj().index_select(0, layout.order_T).split(layout.active)
    rows_TP = grad_TP.index_select(0, layout.order_T)
    grads = rows_TP.split(layout.active)
    for step in range(len(grads) - 1, 0, -1):
        grads[step - 1][: layout.active[step]].addcmul_(decays[step], grads[step])
    return rows_TP.index_select(0, layout.inverse_T)


def _to_complex(halves_T2P: Tensor) -> Tensor:
    """Join real and imaginary halves."""
    re_TP, im_TP = halves_T2P.chunk(2, dim=1)
    return torch.complex(re_TP.contiguous(), im_TP.contiguous())


def _to_halves(values_TP: Tensor) -> Tensor:
    """Split a complex tensor into real and imaginary halves."""
    return torch.cat([values_TP.real, values_TP.imag], dim=1)
