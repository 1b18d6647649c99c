"""The words of simd/math.h, of every instruction set, against wider arithmetic, over the whole float line."""

import functools
import re
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

HEADER = Path(__file__).resolve().parent.parent / "csrc/simd/math.h"
# The bounds are those the header declares above each function.
BOUNDS = {
    word: float(ulp)
    for ulp, word in re.findall(
        r"at most ([\d.]+) ULP[^\n]*\ntemplate <class V> RNN_FN V (\w+)\(V x\)", HEADER.read_text()
    )
}
WORDS = sorted(BOUNDS)
DTYPES = {"float32": np.float32, "float64": np.float64}
every_word = pytest.mark.parametrize("word", WORDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def ours(word, x):
    return torch.ops.rnnkernels._math(torch.from_numpy(x), word).numpy()


def wide(word, x):
    with np.errstate(all="ignore"):
        if word == "sigmoid":
            return 1 / (1 + np.exp(-x))
        return np.maximum(x, 0) + np.log1p(np.exp(-abs(x))) if word == "softplus" else getattr(np, word)(x)


def domain(word, x):
    """Of x what the word is for: the logarithm takes positive normal numbers."""
    return x[(x >= np.finfo(x.dtype).tiny) & np.isfinite(x)] if word == "log" else x


def ulps(got, exact, dtype):
    """|got - exact| in units in the last place of `dtype` at `exact`; infinity is the number after the largest."""
    info, wider = np.finfo(dtype), exact.dtype.type
    end = wider(2) ** info.maxexp
    _, exponent = np.frexp(np.minimum(np.abs(exact), end / 2))
    unit = np.ldexp(wider(1), np.maximum(exponent - 1, info.minexp) - info.nmant)
    return np.abs(np.clip(got.astype(wider), -end, end) - np.clip(exact, -end, end)) / unit


def specials(dtype):
    """Zeros, denormals, the ends of the range, and what stands beside every place where a result changes kind."""
    info = np.finfo(dtype)
    edges = [np.log(dtype(2)) * k / 2 for k in (0, 1, 2, 3)] + [1, 8, 9, 10, 19, 20, 21, 40, 87, 88, 89, 103, 104, 105]
    edges += [709, 710, 745, 746, 747, info.tiny, info.smallest_subnormal, info.max, info.eps, np.inf]
    edges += [float(np.log(np.longdouble(v))) for v in (info.max, info.tiny, info.smallest_subnormal)]
    with np.errstate(over="ignore"):
        x = np.array([s * e for e in edges for s in (1, -1)], dtype)
        return np.concatenate([x, np.nextafter(x, dtype(np.inf)), np.nextafter(x, dtype(-np.inf))])


@functools.cache
def float_line():
    """Every 509th bit pattern of float32 (denormals, both signs; a prime, so that all low bits come up)."""
    x = np.arange(0, 2**32, 509, dtype=np.uint32).view(np.float32)
    return np.concatenate([x[~np.isnan(x)], specials(np.float32)])


@functools.cache
def double_line():
    """Bit patterns of float64 evenly spread, and as many values where the functions bend."""
    x = np.arange(0, 2**64, 2**64 // 200_003, dtype=np.uint64).view(np.float64)
    rng = np.random.default_rng(0)
    bends = [rng.uniform(-r, r, 100_000) for r in (1, 20, 750)]
    return np.concatenate([x[~np.isnan(x)], *bends, specials(np.float64)])


@functools.cache
def exact_points():
    """Some thousand float64 numbers: specials, all magnitudes, and the interval where rounding is hardest."""
    rng = np.random.default_rng(1)
    magnitudes = rng.choice([-1, 1], 1000) * 2.0 ** rng.uniform(-60, 10, 1000)
    return np.concatenate([specials(np.float64), magnitudes, rng.uniform(-3, 3, 1000), rng.uniform(-746, 710, 1000)])


@functools.cache
def exact_values(word):
    mpmath.mp.prec = 120
    functions = {"exp": mpmath.exp, "log": mpmath.log, "tanh": mpmath.tanh}
    functions |= {"sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)), "softplus": lambda v: mpmath.log1p(mpmath.exp(v))}
    return [functions[word](mpmath.mpf(float(v))) for v in domain(word, exact_points())]


def test_the_bounds_are_declared():
    assert set(BOUNDS) == {"exp", "log", "tanh", "sigmoid", "softplus"} and max(BOUNDS.values()) <= 2.5


@every_word
def test_float32_over_the_whole_line(isa, word):
    x = domain(word, float_line())
    error = ulps(ours(word, x), wide(word, x.astype(np.float64)), np.float32)
    assert error.max() <= BOUNDS[word], f"{error.max():.3f} ULP at {x[error.argmax()]!r}"


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="numpy has no wider type here")
@every_word
def test_float64_over_the_whole_line(isa, word):
    x = domain(word, double_line())
    error = ulps(ours(word, x), wide(word, x.astype(np.longdouble)), np.float64)
    assert error.max() <= BOUNDS[word], f"{error.max():.3f} ULP at {x[error.argmax()]!r}"


@every_word
def test_float64_against_mpmath(isa, word):
    info, end = np.finfo(np.float64), mpmath.mpf(2) ** 1024
    points = domain(word, exact_points())
    for x, y, exact in zip(points, ours(word, points), exact_values(word), strict=True):
        exact, y = min(exact, end), min(mpmath.mpf(float(y)), end)
        exponent = mpmath.frexp(min(abs(exact), end / 2))[1] - 1 if exact else info.minexp
        error = abs(y - exact) / mpmath.mpf(2) ** (max(exponent, info.minexp) - info.nmant)
        assert error <= BOUNDS[word], f"{float(error):.3f} ULP at {x!r}"


EXACT = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (np.inf, np.inf), (-np.inf, 0.0), (1e30, np.inf), (-1e30, 0.0)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (np.inf, 1.0), (-np.inf, -1.0), (1e30, 1.0), (-1e30, -1.0)],
    "log": [(1.0, 0.0)],
    "softplus": [(np.inf, np.inf), (-np.inf, 0.0), (1e30, 1e30), (-1e30, 0.0)],
    "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (np.inf, 1.0), (-np.inf, 0.0), (1e30, 1.0), (-1e30, 0.0)],
}


@every_dtype
@every_word
def test_zeros_infinities_and_nan(isa, word, dtype):
    x, expected = (np.array(v, DTYPES[dtype]) for v in zip(*EXACT[word]))
    for _ in range(2):  # in whole vectors, then in a remainder
        y = ours(word, np.repeat(x, 16))
        np.testing.assert_array_equal(y, np.repeat(expected, 16))
        np.testing.assert_array_equal(np.signbit(y), np.signbit(np.repeat(expected, 16)))
        x, expected = x[-1:], expected[-1:]
    for nan in (np.nan, -np.nan):
        assert np.isnan(ours(word, np.full(37, nan, DTYPES[dtype]))).all()


@every_dtype
@every_word
def test_bounds_that_no_rounding_may_cross(isa, word, dtype):
    x = domain(word, float_line() if dtype == "float32" else double_line())
    y = ours(word, x)
    bounds = {"exp": (0, np.inf), "log": (-np.inf, np.inf), "tanh": (-1, 1), "sigmoid": (0, 1), "softplus": (0, np.inf)}
    low, high = bounds[word]
    assert y.min() >= low and y.max() <= high
    if word == "tanh":
        np.testing.assert_array_equal(ours(word, -x), -y)


@every_dtype
@every_word
def test_a_result_does_not_depend_on_its_place(isa, word, dtype):
    x = np.linspace(0.1 if word == "log" else -3, 3, 67, dtype=DTYPES[dtype])
    whole = ours(word, x)
    for n in (*range(35), 64, 65):
        np.testing.assert_array_equal(ours(word, x[:n]), whole[:n])
        np.testing.assert_array_equal(ours(word, x[67 - n :].copy()), whole[67 - n :])


def test_an_unknown_word_is_refused():
    with pytest.raises(RuntimeError, match="word: expected exp, log, tanh, sigmoid or softplus, got sine"):
        torch.ops.rnnkernels._math(torch.zeros(3), "sine")
    with pytest.raises(RuntimeError, match="x: expected float32 or float64"):
        torch.ops.rnnkernels._math(torch.zeros(3, dtype=torch.bfloat16), "exp")
