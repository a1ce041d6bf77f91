"""Random bits and the rounding they serve: known answers, edges of the format, and means of many draws."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gptc.ir.body import SCALARS
from gptc.ir.ops.optimizer import AdamW
from gptc.ir.ops.random import Seeds, StochasticRound
from gptc.ir.types import Array

BF16 = np.dtype(ml_dtypes.bfloat16)


def noise(a: int, b: int) -> int:
    """The definition in Python's own integers."""
    x = (a ^ b * 0x9E3779B1) & 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def rounded(x: Array, seed: int) -> Array:
    (y,) = StochasticRound().eval(x, np.int32(seed))
    assert y.dtype == BF16
    return y.astype(np.float32)


def neighbours(x: Array) -> tuple[Array, Array]:
    """The numbers of bf16 at and below, and above |x|, with the sign of x; past the largest comes infinity."""
    low = x.view(np.uint32) & np.uint32(0xFFFF0000)
    return low.view(np.float32), (low + np.uint32(0x10000)).view(np.float32)


def test_noise() -> None:
    """Whole numbers modulo 2^32, also negative ones and floats that are whole."""
    cases = [(0, 0), (1, 0), (0, 1), (2**32 - 1, 7), (123456789, -5), (-1, -1), (2**40 + 3, 2**33)]
    found = SCALARS["noise"].numpy(np.array([a for a, _ in cases]), np.array([b for _, b in cases]))
    assert found.tolist() == [noise(a, b) for a, b in cases]
    (seeds,) = Seeds(3).eval(np.float32(70000))
    assert seeds.view(np.uint32).tolist() == [noise(70000, k) for k in range(3)]


def test_noise_is_even_and_independent() -> None:
    """The 16 bits that rounding uses: of neighbours, of steps, of tensors; each bit of the input changes half of them.

    With 2^20 draws a share or a correlation has a standard deviation of 2^-10 at most; 5 of them are allowed.
    """
    index = np.arange(1 << 20)
    draws = {k: SCALARS["noise"].numpy(index, noise(step, tensor)) & 0xFFFF for k, (step, tensor) in enumerate(
        ((1, 0), (2, 0), (1, 1), (1000, 147)))}  # fmt: skip
    uniform = [bits / 65536.0 for bits in draws.values()]
    for u in uniform:
        assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12) / 1024
        counts = np.bincount((u * 256).astype(int), minlength=256)
        chi2 = float(((counts - 4096.0) ** 2 / 4096).sum())
        assert abs(chi2 - 255) < 5 * np.sqrt(2 * 255)
        for lag in (1, 2, 16, 768):
            assert abs(np.corrcoef(u[:-lag], u[lag:])[0, 1]) < 5 / 1024, lag
    for u in uniform[1:]:
        assert abs(np.corrcoef(uniform[0], u)[0, 1]) < 5 / 1024
    for bit in range(20):
        flipped = SCALARS["noise"].numpy(index, 9) ^ SCALARS["noise"].numpy(index ^ (1 << bit), 9)
        shares = np.array([(flipped >> np.uint32(b) & np.uint32(1)).mean() for b in range(16)])
        assert np.abs(shares - 0.5).max() < 0.05, bit


EDGES = np.array(
    [np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 3.3895314e38, -3.3895314e38, 9.183550e-41, -9.183550e-41, 1.1754944e-38],
    np.float32,
)


def test_what_bf16_holds_stays() -> None:
    everything = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    held = np.concatenate([everything[~np.isnan(everything)], EDGES])
    assert np.array_equal(held.astype(BF16).astype(np.float32), held)
    for seed in (0, -1, 12345):
        assert rounded(held, seed).tobytes() == held.tobytes()


def test_nan_stays_nan() -> None:
    words = np.array([0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001], np.uint32)
    for seed in range(50):
        assert np.isnan(rounded(words.view(np.float32), seed)).all()


def test_between_neighbours() -> None:
    """Every exponent, subnormals and both signs; the largest float may become infinity, as to nearest."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, 200_000, np.uint32).view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], np.float32([3.4028235e38, -3.4028235e38, 1e-45, -1e-45])])
    low, high = neighbours(x)
    both = [rounded(x, seed) for seed in range(8)]
    for y in both:
        assert np.all((y == low) | (y == high))
    assert {-np.inf, np.inf} <= set(np.concatenate([y[-4:] for y in both]).tolist())


@pytest.mark.parametrize("value", [1.001, -0.3, 1e-40, -123456.78, 0.02000001])
def test_the_mean_is_the_value(value: float) -> None:
    """2^22 draws: the mean is off by at most half a gap times 2^-11 in one standard deviation; 5 are allowed."""
    x = np.full(1 << 20, value, np.float32)
    low, high = neighbours(x[:1])
    up = np.mean([rounded(x, seed) == high for seed in range(4)])
    share = (float(x[0]) - float(low[0])) / (float(high[0]) - float(low[0]))
    assert abs(up - share) < 5 * 0.5 / 2**11


@pytest.mark.parametrize("stochastic", [False, True])
def test_small_updates_are_lost_to_nearest_only(stochastic: bool) -> None:
    """400 steps of AdamW against a constant gradient, each a tenth of the gap between neighbours of bf16 at 1."""
    steps, lr = 400, 2.0**-8 / 10
    p = np.ones(10_000, BF16)
    g, m, v = np.ones(p.shape, np.float32), np.zeros(p.shape, np.float32), np.zeros(p.shape, np.float32)
    op = AdamW(weight_decay=0.0, stochastic=stochastic)
    for step in range(1, steps + 1):
        seed = [Seeds(1).eval(np.float32(step))[0][0]] if stochastic else []
        p, m, v = op.eval(p, g, m, v, *seed, *(np.float32(s) for s in (lr, step, 1)))
    moved = 1 - p.astype(np.float64)
    assert abs(moved.mean() - steps * lr * stochastic) < 1e-3
    assert moved.std() < 0.1
