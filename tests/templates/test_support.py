"""The scalar functions of support.h against float64, over every exponent a float can have."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gptc.ir.ops.random import StochasticRound
from tests.templates.kernel_library import ISAS, Library

FUNCTIONS = ("exp", "tanh", "sigmoid", "gelu", "round_bf16")
SOURCE = (
    '#include "support.h"\n'
    + "".join(
        f"""
void apply_{f}(const float *x, float *y, int64_t n);
void apply_{f}(const float *x, float *y, int64_t n)
{{
    for (int64_t i = 0; i < n; i++)
        y[i] = gptc_{f}(x[i]);
}}
"""
        for f in FUNCTIONS
    )
    + """
void draw(const float *x, float *y, const int32_t *seed, int64_t n);
void draw(const float *x, float *y, const int32_t *seed, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = gptc_stochastic_bf16(x[i], gptc_noise(i, *seed));
}
"""
)


@pytest.fixture(scope="module", params=ISAS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("support"), ISAS[request.param], {}, SOURCE)


def apply(library: Library, function: str, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    library.call(f"apply_{function}", x, y, x.size)
    return y


def every_exponent() -> np.ndarray:
    """4096 floats for each exponent and sign, zeros and infinities included, NaN not."""
    bits = np.arange(0, 1 << 32, 1 << 11, dtype=np.int64).astype(np.uint32)
    bits ^= (bits >> 11) & 0x7FF  # vary the low bits of the mantissa too
    x = bits.view(np.float32)
    return np.concatenate([x[~np.isnan(x)], np.float32([np.inf, -np.inf, 0.0, -0.0])])


def ulps(y: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error in units of the last place of the exact value."""
    return np.abs(y - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def test_exp(library: Library) -> None:
    x = np.concatenate([every_exponent(), np.linspace(-90, 90, 1 << 20, dtype=np.float32)])
    with np.errstate(over="ignore", under="ignore"):
        exact = np.exp(x.astype(np.float64))
    y = apply(library, "exp", x)
    normal = (x > -86.9) & (x < 88.72)
    assert ulps(y[normal], exact[normal]).max() < 1.4
    assert np.all(y[x < -87] == 0)
    assert np.all(np.abs(y[x <= -86.9] - exact[x <= -86.9]) < 1.9e-38)
    assert np.all(y[x > 88.73] == np.inf)


def test_tanh(library: Library) -> None:
    x = every_exponent()
    exact = np.tanh(x.astype(np.float64))
    y = apply(library, "tanh", x)
    normal = np.abs(x) > 1e-37
    assert ulps(y[normal], exact[normal]).max() < 1.4
    assert np.array_equal(y[~normal], x[~normal])
    assert np.array_equal(np.signbit(y), np.signbit(x))


def test_sigmoid(library: Library) -> None:
    x = every_exponent()
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    y = apply(library, "sigmoid", x)
    normal = x > -87
    assert ulps(y[normal], exact[normal]).max() < 2.5
    assert np.all(y[~normal] < 1.7e-38)


def test_gelu(library: Library) -> None:
    x = np.concatenate([every_exponent(), np.linspace(-12, 12, 1 << 20, dtype=np.float32)])
    x = x[np.abs(x) < 1e38]
    x64 = x.astype(np.float64)
    with np.errstate(over="ignore"):
        exact = x64 / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x64 + 0.044715 * x64**3)))
    y = apply(library, "gelu", x)
    middle = (np.abs(x) < 4) & (np.abs(x) > 1e-36)
    assert ulps(y[middle], exact[middle]).max() < 22
    small = np.abs(x) < 10
    assert np.abs(y - exact)[small].max() < 1e-6
    assert ulps(y[x >= 10], exact[x >= 10]).max() < 2
    assert np.abs(y[x <= -10]).max() < 1e-20


def test_bf16_rounds_to_nearest_even(library: Library) -> None:
    halves = np.arange(1 << 16, dtype=np.uint32) << 16
    bits = np.concatenate([halves + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    x = bits.astype(np.uint32).view(np.float32)
    x = x[~np.isnan(x)]
    with np.errstate(over="ignore"):
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(apply(library, "round_bf16", x).view(np.uint32), expected.view(np.uint32))


def test_stochastic_rounding_has_the_bits_of_the_interpreter(library: Library) -> None:
    x = np.concatenate([every_exponent(), np.float32([np.nan, -np.nan]), np.uint32([0x7FFFFFFF]).view(np.float32)])
    for seed in (0, 1, -7):
        y = np.empty_like(x)
        library.call("draw", x, y, np.array([seed], np.int32), x.size)
        (expected,) = StochasticRound().eval(x, np.int32(seed))
        assert y.astype(ml_dtypes.bfloat16).tobytes() == expected.tobytes()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_propagates(library: Library, function: str) -> None:
    assert np.all(np.isnan(apply(library, function, np.full(37, np.nan, np.float32))))
