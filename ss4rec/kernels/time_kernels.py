"""The kernels of the time-aware scan; `time_triton` says how they work and launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from ss4rec.kernels.math_triton import complex_expm1, sigmoid, softplus

LOG2_E = tl.constexpr(1.4426950408889634)
TURNS_A_RADIAN = tl.constexpr(0.15915494309189535)
SERIES_RADIUS = tl.constexpr(0.03)
"""Below this |z| three terms of the series are off by 2e-6 at most, above it the closed form by eps/|z|, as much."""


@triton.jit
def _compose(
    left_re: tl.tensor, left_im: tl.tensor, left_x_re: tl.tensor, left_x_im: tl.tensor, right_re: tl.tensor,
    right_im: tl.tensor, right_x_re: tl.tensor, right_x_im: tl.tensor,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Compose v -> left·v + left_x with the affine map that follows it (complex)."""
    return (
        left_re * right_re - left_im * right_im,
        left_re * right_im + left_im * right_re,
        right_re * left_x_re - right_im * left_x_im + right_x_re,
        right_re * left_x_im + right_im * left_x_re + right_x_im,
    )


@triton.jit
def _compose_with_head(
    a: tl.tensor, b: tl.tensor, c: tl.tensor, d: tl.tensor, head_a: tl.tensor, head_b: tl.tensor, head_c: tl.tensor,
    head_d: tl.tensor, e: tl.tensor, f: tl.tensor, g: tl.tensor, h: tl.tensor, head_e: tl.tensor, head_f: tl.tensor,
    head_g: tl.tensor, head_h: tl.tensor,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Compose two stretches of maps; a stretch is its whole map and its head, the map of all but its last element."""
    head_e, head_f, head_g, head_h = _compose(a, b, c, d, head_e, head_f, head_g, head_h)
    e, f, g, h = _compose(a, b, c, d, e, f, g, h)
    return e, f, g, h, head_e, head_f, head_g, head_h


@triton.jit
def _join_runs(
    map_re: tl.tensor, map_im: tl.tensor, x_re: tl.tensor, x_im: tl.tensor, carry_re: tl.tensor, carry_im: tl.tensor,
    run: tl.tensor, RUNS: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Return what each row receives from the rows before it, and what leaves the last row.

    Row r maps an incoming value v to map·v + x; `carry` comes into row 0. A single row has it in x already.
    """
    if RUNS == 1:
        return carry_re, carry_im, x_re, x_im
    zero = tl.zeros_like(map_re)
    _, _, _, _, head_re, head_im, head_x_re, head_x_im = tl.associative_scan(
        (map_re, map_im, x_re, x_im, zero + 1.0, zero, zero, zero), 0, _compose_with_head
    )
    in_re = head_x_re + head_re * carry_re - head_im * carry_im
    in_im = head_x_im + head_re * carry_im + head_im * carry_re
    out_re = x_re + map_re * in_re - map_im * in_im
    out_im = x_im + map_re * in_im + map_im * in_re
    carry_re = tl.sum(tl.where(run == RUNS - 1, out_re, 0.0), 0)[None, :]
    carry_im = tl.sum(tl.where(run == RUNS - 1, out_im, 0.0), 0)[None, :]
    return in_re, in_im, carry_re, carry_im


@triton.jit
def _load_parameters(
    lambda_re_ptr: tl.tensor, lambda_im_ptr: tl.tensor, log_step_ptr: tl.tensor, weight_ptr: tl.tensor,
    bias_ptr: tl.tensor, state: tl.tensor, P: tl.constexpr, HAS_MAP: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Load Λ, 1/Λ, exp(log_step) and the gap map; columns beyond P decay at rate 1."""
    live = state < P
    lambda_re = tl.load(lambda_re_ptr + state, mask=live, other=-1.0).to(tl.float32)
    lambda_im = tl.load(lambda_im_ptr + state, mask=live, other=0.0).to(tl.float32)
    scale = tl.exp(tl.load(log_step_ptr + state, mask=live, other=0.0).to(tl.float32))
    square = lambda_re * lambda_re + lambda_im * lambda_im
    weight, bias = scale, scale
    if HAS_MAP:
        weight = tl.load(weight_ptr + state, mask=live, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + state, mask=live, other=0.0).to(tl.float32)
    return lambda_re, lambda_im, lambda_re / square, -lambda_im / square, scale, weight, bias


@triton.jit
def _step(
    gap: tl.tensor, scale: tl.tensor, weight: tl.tensor, bias: tl.tensor, HAS_MAP: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return s, the step of the discretisation."""
    if HAS_MAP:
        return softplus(weight * tl.log(1.0 + gap) + bias) * scale
    return gap * scale


@triton.jit
def _coefficient_slope(
    lambda_re: tl.tensor, lambda_im: tl.tensor, inverse_re: tl.tensor, inverse_im: tl.tensor, step: tl.tensor,
    decay_re: tl.tensor, decay_im: tl.tensor, factor_re: tl.tensor, factor_im: tl.tensor,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Return dc/dΛ of the zero-order hold c = (e^(Λs) - 1)/Λ, as `time_torch._coefficient_slope`.

    (s e^(Λs) - c)/Λ loses its digits where z = Λs is small; there it is s² (1/2 + z/3 + z²/8 + ..).
    """
    z_re, z_im = lambda_re * step, lambda_im * step
    sum_re, sum_im = tl.fma(z_re, 1 / 8, 1 / 3), z_im * (1 / 8)
    sum_re, sum_im = tl.fma(z_re, sum_re, 1 / 2) - z_im * sum_im, z_re * sum_im + z_im * sum_re
    lost_re, lost_im = step * decay_re - factor_re, step * decay_im - factor_im
    closed_re = lost_re * inverse_re - lost_im * inverse_im
    closed_im = lost_re * inverse_im + lost_im * inverse_re
    near = z_re * z_re + z_im * z_im < SERIES_RADIUS * SERIES_RADIUS
    square = step * step
    return tl.where(near, square * sum_re, closed_re), tl.where(near, square * sum_im, closed_im)


@triton.jit
def _load(
    ptr: tl.tensor, token: tl.tensor, live: tl.tensor, state: tl.tensor, P: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Load real and imaginary part of a token's states; 0 where it is not `live`."""
    at = token * (2 * P) + state
    live = live & (state < P)
    return tl.load(ptr + at, mask=live, other=0.0), tl.load(ptr + at + P, mask=live, other=0.0)


@triton.jit
def _store(
    ptr: tl.tensor, token: tl.tensor, live: tl.tensor, state: tl.tensor, pair: tl.tensor, P: tl.constexpr,
) -> None:  # fmt: skip
    """Store real and imaginary part of a token's states where it is `live`."""
    at = token * (2 * P) + state
    live = live & (state < P)
    tl.store(ptr + at, pair[0], mask=live)
    tl.store(ptr + at + P, pair[1], mask=live)


@triton.jit
def _load_forward(
    gaps_ptr: tl.tensor, drive_ptr: tl.tensor, first: tl.tensor, length: tl.tensor, state: tl.tensor, P: tl.constexpr,
    RUN: tl.constexpr,
) -> tuple[tuple, ...]:  # fmt: skip
    """Load gap and drive of the tokens first : first + RUN; those past the end are 0, and so map nothing."""
    inputs = ()
    for r in tl.static_range(RUN):
        in_time = first + r < length
        gap = tl.load(gaps_ptr + first + r, mask=in_time, other=0.0)
        inputs = inputs + ((gap, _load(drive_ptr, first + r, in_time, state, P)),)
    return inputs


@triton.jit
def forward_kernel(
    drive_ptr: tl.tensor, gaps_ptr: tl.tensor, lambda_re_ptr: tl.tensor, lambda_im_ptr: tl.tensor,
    log_step_ptr: tl.tensor, weight_ptr: tl.tensor, bias_ptr: tl.tensor, offsets_ptr: tl.tensor,
    states_ptr: tl.tensor, P: tl.constexpr, HAS_MAP: tl.constexpr, BLOCK_P: tl.constexpr, RUN: tl.constexpr,
    RUNS: tl.constexpr,
) -> None:  # fmt: skip
    """Scan one sequence: program s writes the states of the tokens offsets[s] : offsets[s + 1]."""
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    gaps_ptr += start
    drive_ptr += start * (2 * P)
    states_ptr += start * (2 * P)
    state = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    run = tl.arange(0, RUNS)[:, None]
    lambda_re, lambda_im, inverse_re, inverse_im, scale, weight, bias = _load_parameters(
        lambda_re_ptr, lambda_im_ptr, log_step_ptr, weight_ptr, bias_ptr, state, P, HAS_MAP
    )
    zero = tl.zeros([RUNS, BLOCK_P], tl.float32)
    carry_re = tl.zeros([1, BLOCK_P], tl.float32)
    carry_im = tl.zeros([1, BLOCK_P], tl.float32)
    bits, turns = lambda_re * LOG2_E, lambda_im * TURNS_A_RADIAN
    inputs = _load_forward(gaps_ptr, drive_ptr, run * RUN, length, state, P, RUN)
    for block in range(0, length, RUN * RUNS):
        first = block + run * RUN
        now = inputs  # the next block's are on their way while this one is computed
        inputs = _load_forward(gaps_ptr, drive_ptr, first + RUN * RUNS, length, state, P, RUN)
        map_re, map_im, x_re, x_im = zero + 1.0, zero, zero, zero
        if RUNS == 1:
            x_re, x_im = carry_re, carry_im
        partial = ()
        for r in tl.static_range(RUN):
            gap, drive = now[r]
            drive_re, drive_im = drive[0].to(tl.float32), drive[1].to(tl.float32)
            step = _step(gap.to(tl.float32), scale, weight, bias, HAS_MAP)
            grow_re, grow_im, decay_re, decay_im = complex_expm1(bits * step, turns * step)
            factor_re = grow_re * inverse_re - grow_im * inverse_im
            factor_im = grow_re * inverse_im + grow_im * inverse_re
            map_re, map_im, x_re, x_im = _compose(
                map_re, map_im, x_re, x_im, decay_re, decay_im,
                factor_re * drive_re - factor_im * drive_im, factor_re * drive_im + factor_im * drive_re,
            )  # fmt: skip
            partial = partial + ((map_re, map_im, x_re, x_im),)
        in_re, in_im, carry_re, carry_im = _join_runs(
            map_re, map_im, x_re, x_im, carry_re, carry_im, run, RUNS
        )
        for r in tl.static_range(RUN):
            map_re, map_im, x_re, x_im = partial[r]
            if RUNS > 1:
                x_re += map_re * in_re - map_im * in_im
                x_im += map_re * in_im + map_im * in_re
            _store(states_ptr, first + r, first + r < length, state, (x_re, x_im), P)


@triton.jit
def _gradients(
    drive: tl.tensor, previous: tl.tensor, step: tl.tensor, grow_re: tl.tensor, grow_im: tl.tensor,
    decay_re: tl.tensor, decay_im: tl.tensor, g_re: tl.tensor, g_im: tl.tensor, lambda_re: tl.tensor,
    lambda_im: tl.tensor, inverse_re: tl.tensor, inverse_im: tl.tensor,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Return what the adjoint g of one token makes of its drive (complex), its step, and Λ (complex)."""
    drive_re, drive_im = drive[0].to(tl.float32), drive[1].to(tl.float32)
    previous_re, previous_im = previous[0].to(tl.float32), previous[1].to(tl.float32)
    factor_re = grow_re * inverse_re - grow_im * inverse_im
    factor_im = grow_re * inverse_im + grow_im * inverse_re
    grad_drive = (factor_re * g_re + factor_im * g_im, factor_re * g_im - factor_im * g_re)
    past_re = decay_re * previous_re - decay_im * previous_im
    past_im = decay_re * previous_im + decay_im * previous_re
    m_re = lambda_re * past_re - lambda_im * past_im + decay_re * drive_re - decay_im * drive_im
    m_im = lambda_re * past_im + lambda_im * past_re + decay_re * drive_im + decay_im * drive_re
    slope_re, slope_im = _coefficient_slope(
        lambda_re, lambda_im, inverse_re, inverse_im, step, decay_re, decay_im, factor_re, factor_im
    )
    q_re = step * past_re + slope_re * drive_re - slope_im * drive_im
    q_im = step * past_im + slope_re * drive_im + slope_im * drive_re
    return grad_drive, g_re * m_re + g_im * m_im, (g_re * q_re + g_im * q_im, g_im * q_re - g_re * q_im)


@triton.jit
def _load_backward(
    gaps_ptr: tl.tensor, grad_ptr: tl.tensor, drive_ptr: tl.tensor, states_ptr: tl.tensor, last: tl.tensor,
    state: tl.tensor, P: tl.constexpr, RUN: tl.constexpr,
) -> tuple[tuple, ...]:  # fmt: skip
    """Load gap, gradient, drive and the state before it of the tokens last, last - 1 .. last - RUN + 1; 0 before 0."""
    inputs = ()
    for r in tl.static_range(RUN):
        token = last - r
        inputs = inputs + (
            (
                tl.load(gaps_ptr + token, mask=token >= 0, other=0.0),
                _load(grad_ptr, token, token >= 0, state, P),
                _load(drive_ptr, token, token >= 0, state, P),
                _load(states_ptr - 2 * P, token, token >= 1, state, P),  # of the token before
            ),
        )
    return inputs


@triton.jit
def backward_kernel(
    drive_ptr: tl.tensor, gaps_ptr: tl.tensor, lambda_re_ptr: tl.tensor, lambda_im_ptr: tl.tensor,
    log_step_ptr: tl.tensor, weight_ptr: tl.tensor, bias_ptr: tl.tensor, offsets_ptr: tl.tensor,
    states_ptr: tl.tensor, grad_ptr: tl.tensor, grad_drive_ptr: tl.tensor, grad_gaps_ptr: tl.tensor,
    partial_ptr: tl.tensor, T: tl.tensor, P: tl.constexpr, HAS_MAP: tl.constexpr, GRAD_GAPS: tl.constexpr,
    BLOCK_P: tl.constexpr, RUN: tl.constexpr, RUNS: tl.constexpr,
) -> None:  # fmt: skip
    """Run the adjoint g_k = grad_k + conj(decay_(k+1)) g_(k+1) from the sequence's end; row 0 holds the last tokens.

    Gradients of a complex value are d/dRe + i d/dIm, so they pass a holomorphic y = f(z) by conj(f'):
    dL/ds_k = Re(g_k conj(decay_k (Λ x_(k-1) + drive_k))), since the zero-order hold's coefficient c has dc/ds = decay,
    and dL/dΛ = Σ g_k conj(s_k decay_k x_(k-1) + (dc_k/dΛ) drive_k).
    """
    start = tl.load(offsets_ptr + tl.program_id(0)).to(tl.int64)
    length = (tl.load(offsets_ptr + tl.program_id(0) + 1) - start).to(tl.int32)
    gaps_ptr += start
    grad_gaps_ptr += start + tl.program_id(1).to(tl.int64) * T
    drive_ptr += start * (2 * P)
    states_ptr += start * (2 * P)
    grad_ptr += start * (2 * P)
    grad_drive_ptr += start * (2 * P)
    state = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    run = tl.arange(0, RUNS)[:, None]
    lambda_re, lambda_im, inverse_re, inverse_im, scale, weight, bias = _load_parameters(
        lambda_re_ptr, lambda_im_ptr, log_step_ptr, weight_ptr, bias_ptr, state, P, HAS_MAP
    )
    zero = tl.zeros([RUNS, BLOCK_P], tl.float32)
    carry_re = tl.zeros([1, BLOCK_P], tl.float32)
    carry_im = tl.zeros([1, BLOCK_P], tl.float32)
    sum_lambda_re, sum_lambda_im, sum_log_step, sum_weight, sum_bias = zero, zero, zero, zero, zero
    bits, turns = lambda_re * LOG2_E, lambda_im * TURNS_A_RADIAN
    for back in range(0, length, RUN * RUNS):
        last = length - 1 - back - run * RUN
        inputs = _load_backward(gaps_ptr, grad_ptr, drive_ptr, states_ptr, last, state, P, RUN)
        # What flows to the token before is conj(decay) g; a row maps v to map·v + flow.
        map_re, map_im = zero + 1.0, zero
        flow_re, flow_im = zero, zero
        if RUNS == 1:
            flow_re, flow_im = carry_re, carry_im
        partial = ()
        for r in tl.static_range(RUN):
            gap, grad, _, _ = inputs[r]
            step = _step(gap.to(tl.float32), scale, weight, bias, HAS_MAP)
            grow_re, grow_im, decay_re, decay_im = complex_expm1(bits * step, turns * step)
            g_re, g_im = grad[0].to(tl.float32) + flow_re, grad[1].to(tl.float32) + flow_im
            partial = partial + ((step, grow_re, grow_im, decay_re, decay_im, map_re, map_im, g_re, g_im),)
            flow_re = decay_re * g_re + decay_im * g_im
            flow_im = decay_re * g_im - decay_im * g_re
            map_re, map_im = decay_re * map_re + decay_im * map_im, decay_re * map_im - decay_im * map_re
        in_re, in_im, carry_re, carry_im = _join_runs(
            map_re, map_im, flow_re, flow_im, carry_re, carry_im, run, RUNS
        )
        for r in tl.static_range(RUN):
            gap, _, drive, previous = inputs[r]
            step, grow_re, grow_im, decay_re, decay_im, map_re, map_im, g_re, g_im = partial[r]
            if RUNS > 1:
                g_re += map_re * in_re - map_im * in_im
                g_im += map_re * in_im + map_im * in_re
            grad_drive, grad_step, grad_lambda = _gradients(
                drive, previous, step, grow_re, grow_im, decay_re, decay_im, g_re, g_im,
                lambda_re, lambda_im, inverse_re, inverse_im,
            )  # fmt: skip
            _store(grad_drive_ptr, last - r, last - r >= 0, state, grad_drive, P)
            sum_log_step += grad_step * step
            sum_lambda_re += grad_lambda[0]
            sum_lambda_im += grad_lambda[1]
            if HAS_MAP or GRAD_GAPS:
                slope = grad_step * scale
                if HAS_MAP:
                    log_gap = tl.log(1.0 + gap.to(tl.float32))
                    slope *= sigmoid(weight * log_gap + bias)
                    sum_weight += slope * log_gap
                    sum_bias += slope
                    slope *= weight / (1.0 + gap.to(tl.float32))
                if GRAD_GAPS:
                    grad_gap = tl.sum(tl.where(state < P, slope, 0.0), 1)[:, None]
                    tl.store(grad_gaps_ptr + last - r, grad_gap, mask=last - r >= 0)
    partial_ptr += tl.program_id(0).to(tl.int64) * ((5 if HAS_MAP else 3) * P)
    sums = (sum_lambda_re, sum_lambda_im, sum_log_step)
    if HAS_MAP:
        sums = sums + (sum_weight, sum_bias)
    column = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    for i in tl.static_range(len(sums)):
        tl.store(partial_ptr + i * P + column, tl.sum(sums[i], 0), mask=column < P)
