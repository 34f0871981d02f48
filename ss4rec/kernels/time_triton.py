"""The time-aware scan as two fused Triton kernels, one forward and one backward.

Discretisation, scaled input and complex recurrence live in registers: nothing of size [T, P] is stored but the
states that are returned. One program walks through 32 states of one sequence in blocks of `RUNS * RUN` tokens; each of
its `RUNS` rows of threads scans `RUN` consecutive tokens alone, the rows' results are joined by one scan of `RUNS`
elements, and every row adds what came in from its left. Many sequences fill the card with one row each, which needs
no join. All loads of a block are issued before the first use, forward while the block before it is computed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ss4rec.kernels.inputs import TimeSystem
from ss4rec.kernels.launch import launch
from ss4rec.kernels.time_kernels import backward_kernel, forward_kernel
from ss4rec.model.segments import Segments

RUN_FORWARD = 8
"""Consecutive tokens that one thread scans alone before the threads' results are joined; 10 are 3 % faster at most, and
take twice as long to compile, which is quadratic in the number of loads."""
RUN_BACKWARD = 5
"""As `RUN_FORWARD`; smaller since the backward kernel keeps more values of each token in registers."""
RUN_BACKWARD_ALONE = 3
"""As `RUN_BACKWARD` where a program has one row; 64 registers a thread let 32 programs share a multiprocessor."""
MOST_RUNS = 8
"""Largest number of rows of threads in a program."""
WARPS = 1600
"""Rows are added until this many warps run, if there are fewer sequences: with few warps an H100 waits for loads."""


def time_scan(drive_T2P: Tensor, gaps_T: Tensor, system: TimeSystem, segments: Segments) -> Tensor:
    """Compute `ss4rec.kernels.naive.time_scan`; arithmetic and state are float32, states have `drive`'s type.

    The gradient of the decays uses the returned states, so with bf16 it carries their rounding.
    """
    states_T2P: Tensor = _TimeScan.apply(drive_T2P, gaps_T, *system, segments)
    return states_T2P


class _TimeScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        drive_T2P: Tensor,
        gaps_T: Tensor,
        lambda_re_P: Tensor,
        lambda_im_P: Tensor,
        log_step_P: Tensor,
        gap_weight_P: Tensor | None,
        gap_bias_P: Tensor | None,
        segments: Segments,
    ) -> Tensor:
        """Return the states, real and imaginary halves side by side, `[T, 2P]`."""
        drive_T2P, gaps_T = drive_T2P.contiguous(), gaps_T.contiguous()
        num_states = lambda_re_P.numel()
        has_map = gap_weight_P is not None
        # Kernels without a gap map never read these two pointers.
        weight_P = gap_weight_P if gap_weight_P is not None else log_step_P
        bias_P = gap_bias_P if gap_bias_P is not None else log_step_P
        states_T2P = torch.empty_like(drive_T2P)
        parameters = (lambda_re_P, lambda_im_P, log_step_P, weight_P, bias_P)
        tile = forward_tile(num_states, segments.num_sequences)
        launch(
            forward_kernel,
            (segments.num_sequences, triton.cdiv(num_states, tile["BLOCK_P"])),
            drive_T2P,
            gaps_T,
            *parameters,
            segments.offsets_S1,
            states_T2P,
            P=num_states,
            HAS_MAP=has_map,
            **tile,
        )
        ctx.save_for_backward(drive_T2P, gaps_T, *parameters, states_T2P)
        ctx.segments, ctx.has_map = segments, has_map
        return states_T2P

    @staticmethod
    def backward(ctx: Any, grad_T2P: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of drive `[T, 2P]`, gaps `[T]` and the system's parameters `[P]`."""
        drive_T2P, gaps_T, *parameters, states_T2P = ctx.saved_tensors
        num_states, num_sequences = parameters[0].numel(), ctx.segments.num_sequences
        tile = backward_tile(num_states, num_sequences)
        blocks = triton.cdiv(num_states, tile["BLOCK_P"])
        grad_drive_T2P = torch.empty_like(drive_T2P)
        needs_gaps, sums = ctx.needs_input_grad[1], 5 if ctx.has_map else 3
        grad_gaps_KT = gaps_T.new_empty(blocks, len(gaps_T)) if needs_gaps else gaps_T
        partial_SXP = torch.empty(num_sequences, sums, num_states, device=gaps_T.device, dtype=torch.float32)
        launch(backward_kernel, (num_sequences, blocks),
            drive_T2P, gaps_T, *parameters, ctx.segments.offsets_S1, states_T2P, grad_T2P.contiguous(),
            grad_drive_T2P, grad_gaps_KT, partial_SXP, len(gaps_T),
            P=num_states, HAS_MAP=ctx.has_map, GRAD_GAPS=needs_gaps, **tile,
        )  # fmt: skip
        grads = [
            grad_P.to(parameter.dtype)
            for grad_P, parameter in zip(partial_SXP.sum(0), parameters, strict=False)
        ]
        grads += [None] * (5 - len(grads))
        return grad_drive_T2P, grad_gaps_KT.sum(0) if needs_gaps else None, *grads, None


def forward_tile(num_states: int, num_sequences: int) -> dict[str, int]:
    """Return the shape of the forward kernel's programs."""
    return _tile(num_states, num_sequences) | {"RUN": RUN_FORWARD}


def backward_tile(num_states: int, num_sequences: int) -> dict[str, int]:
    """Return the shape of the backward kernel's programs."""
    tile = _tile(num_states, num_sequences)
    return tile | {"RUN": RUN_BACKWARD if tile["RUNS"] > 1 else RUN_BACKWARD_ALONE}


def _tile(num_states: int, num_sequences: int) -> dict[str, int]:
    """Shape of a program: up to 32 states side by side, one a thread, and rows until a card has enough warps.

    Rows cost a join, and tokens beyond the sequence's end, so there are only as many as it takes. With two states a
    thread the compiler would move every value through shared memory, from the layout of loads to that of the join.
    """
    block = min(32, triton.next_power_of_2(num_states))
    programs = num_sequences * triton.cdiv(num_states, block)
    runs = min(MOST_RUNS, triton.next_power_of_2(triton.cdiv(WARPS, programs)))
    return {"BLOCK_P": block, "RUNS": runs, "num_warps": max(1, runs * block // 32)}
