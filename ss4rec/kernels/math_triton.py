"""Scalar functions that several kernels need, accurate to float32 rounding on all of their range."""
# ruff: noqa: ANN001, ANN201 - arguments of Triton functions are tensors of the kernel language.

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's CPU interpreter, which knows no assembly."""


@triton.jit
def exp2(x):
    """Return 2^x; results below the smallest normal number are 0, which saves three of four instructions."""
    if INTERPRETED:
        return tl.exp2(x)
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
    )


@triton.jit
def exp2_again(x):
    """Return `exp2(x)`, computed anew even where the compiler could keep an equal value in a register."""
    if INTERPRETED:
        return tl.exp2(x)
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=False, pack=1
    )


@triton.jit
def exp(x):
    """Return e^x by `exp2`."""
    return exp2(x * 1.4426950408889634)


@triton.jit
def reciprocal(x):
    """Return 1 / x to two units in the last place."""
    if INTERPRETED:
        return 1.0 / x
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
    )


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return reciprocal(1.0 + exp(-x))


@triton.jit
def softplus(x):
    """Return ln(1 + e^x), with full relative accuracy where it is small."""
    small = exp(-tl.abs(x))
    # Below 1/8 the series of ln(1 + v); above, 1 + v keeps enough of v.
    series = tl.fma(small, 0.14285714285714285, -0.16666666666666666)
    series = tl.fma(small, series, 0.2)
    series = tl.fma(small, series, -0.25)
    series = tl.fma(small, series, 0.3333333333333333)
    series = tl.fma(small, series, -0.5)
    series = tl.fma(small, series, 1.0) * small
    return tl.maximum(x, 0.0) + tl.where(small < 0.125, series, tl.log2(1.0 + small) * 0.6931471805599453)


@triton.jit
def complex_expm1(re, im):
    """Return e^z - 1 (real, imaginary) and e^z (real, imaginary) for re <= 0.

    Re(e^z - 1) = expm1(re) - 2 e^re sin²(im / 2) subtracts nothing from one, so small z keep their accuracy.
    The angle im / 2 is reduced by multiples of pi: a common sign of sine and cosine cancels in all products.
    """
    half = 0.5 * im
    turns = tl.floor(half * 0.3183098861837907 + 0.5)
    angle = tl.fma(turns, -3.1415927410125732, half)
    angle = tl.fma(turns, 8.742277657347586e-8, angle)
    # Angles beyond float32's reach reduce to nonsense; keep the series finite (such states have decayed).
    angle = tl.minimum(tl.maximum(angle, -1.6), 1.6)
    q = angle * angle
    sine = tl.fma(q, -2.505210838544172e-8, 2.7557319223985893e-6)
    sine = tl.fma(q, sine, -1.984126984126984e-4)
    sine = tl.fma(q, sine, 8.333333333333333e-3)
    sine = tl.fma(q, sine, -0.16666666666666666)
    sine = tl.fma(q * angle, sine, angle)
    cosine = tl.fma(q, 2.08767569878681e-9, -2.755731922398589e-7)
    cosine = tl.fma(q, cosine, 2.48015873015873e-5)
    cosine = tl.fma(q, cosine, -1.388888888888889e-3)
    cosine = tl.fma(q, cosine, 4.1666666666666664e-2)
    cosine = tl.fma(q, cosine, -0.5)
    cosine = tl.fma(q, cosine, 1.0)

    magnitude = exp(re)
    series = tl.fma(re, 1.388888888888889e-3, 8.333333333333333e-3)
    series = tl.fma(re, series, 4.1666666666666664e-2)
    series = tl.fma(re, series, 0.16666666666666666)
    series = tl.fma(re, series, 0.5)
    series = tl.fma(re, series, 1.0) * re
    shrink = tl.where(re > -0.25, series, magnitude - 1.0)

    twice = 2.0 * sine * magnitude
    minus_one_re = shrink - twice * sine
    minus_one_im = twice * cosine
    return minus_one_re, minus_one_im, minus_one_re + 1.0, minus_one_im
