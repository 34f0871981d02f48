"""Scalar functions that several kernels need, accurate to float32 rounding on all of their range."""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's CPU interpreter, which knows no assembly."""


@triton.jit
def exp2(x: tl.tensor) -> tl.tensor:
    """Return 2^x; results below the smallest normal number are 0, which saves three of four instructions."""
    if INTERPRETED:
        return tl.exp2(x)
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
    )


@triton.jit
def exp2_again(x: tl.tensor) -> tl.tensor:
    """Return `exp2(x)`, computed anew even where the compiler could keep an equal value in a register."""
    if INTERPRETED:
        return tl.exp2(x)
    return tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=False, pack=1
    )


@triton.jit
def exp(x: tl.tensor) -> tl.tensor:
    """Return e^x by `exp2`."""
    return exp2(x * 1.4426950408889634)


@triton.jit
def reciprocal(x: tl.tensor) -> tl.tensor:
    """Return 1 / x to two units in the last place."""
    if INTERPRETED:
        return 1.0 / x
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
    )


@triton.jit
def sigmoid(x: tl.tensor) -> tl.tensor:
    """Return 1 / (1 + e^-x)."""
    return reciprocal(1.0 + exp(-x))


@triton.jit
def softplus(x: tl.tensor) -> tl.tensor:
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
def complex_expm1(bits: tl.tensor, turns: tl.tensor) -> tuple[tl.tensor, ...]:
    """Return e^z - 1 (real, imaginary) and e^z (real, imaginary) of z = bits ln 2 + 2 pi i turns, for bits <= 0.

    Re(e^z - 1) = expm1(Re z) - 2 |e^z| sin²(Im z / 2) subtracts nothing from one, so small z keep their accuracy.
    Whole turns of Im z / 2 are half turns of Im z: the common sign of sine and cosine cancels in both products.
    Coefficients are minimax fits (relative error below 6e-9) of sqrt(2) sin(pi r) / r and sqrt(2) cos(pi r) in r² up to
    |r| = 1/2, and of (2^x - 1) / x in -.36 < x < 0; `tools/fit_expm1.py` prints them.
    """
    # No angle is too large: from 2^23 turns on a float32 has no fraction, and r is 0.
    r = turns - tl.floor(turns + 0.5)
    q = r * r
    sine = tl.fma(q, 0.10968695109047272, -0.8460421287083575)
    sine = tl.fma(q, sine, 3.6063431919707516)
    sine = tl.fma(q, sine, -7.308245122648986)
    sine = tl.fma(q, sine, 4.442882914548896) * r
    cosine = tl.fma(q, -0.03450216748463153, 0.3322518821736101)
    cosine = tl.fma(q, cosine, -1.8882749991817018)
    cosine = tl.fma(q, cosine, 5.739881545941289)
    cosine = tl.fma(q, cosine, -6.9788641100960715)
    cosine = tl.fma(q, cosine, 1.4142135620628893)

    magnitude = exp2(bits)
    series = tl.fma(bits, 0.001201655736708576, 0.00957710680712667)
    series = tl.fma(bits, series, 0.0554988295783986)
    series = tl.fma(bits, series, 0.24022626736883637)
    series = tl.fma(bits, series, 0.6931471788053684) * bits
    shrink = tl.where(bits > -0.36, series, magnitude - 1.0)

    scaled = magnitude * sine
    grow_re = tl.fma(-scaled, sine, shrink)
    grow_im = scaled * cosine
    return grow_re, grow_im, grow_re + 1.0, grow_im
