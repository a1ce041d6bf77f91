"""The scalar functions of support.h against float64, over every exponent a float can have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gptc.codegen.render import render
from gptc.codegen.target import describe
from gptc.ir.ops.random import StochasticRound
from tests.templates.kernel_library import FLAGS, TARGETS

ARM, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
FUNCTIONS = ("exp", "exp2", "tanh", "sin", "cos", "sigmoid", "gelu", "round_bf16")
SOURCE = (
    '#include "support.h"\n#include <string.h>\n'
    + "".join(
        f"""
static void apply_{f}(float *x, int64_t n)
{{
    for (int64_t i = 0; i < n; i++)
        x[i] = gptc_{f}(x[i]);
}}
"""
        for f in FUNCTIONS
    )
    + """
// FUNCTION SEED: applies it to the floats from stdin and writes the results to stdout.
int main(int argc, char **argv)
{
    static float x[1 << 22];
    const int64_t n = fread(x, sizeof *x, sizeof x / sizeof *x, stdin);
    if (argc != 3)
        return 1;
"""
    + "".join(f'    if (strcmp(argv[1], "{f}") == 0)\n        apply_{f}(x, n);\n' for f in FUNCTIONS)
    + """
    if (strcmp(argv[1], "draw") == 0)
        for (int64_t i = 0; i < n; i++)
            x[i] = gptc_stochastic_bf16(x[i], gptc_noise(i, atoi(argv[2])));
    return fwrite(x, sizeof *x, n, stdout) != (size_t)n;
}
"""
)


@dataclass(frozen=True)
class Functions:
    """The functions, compiled for an instruction set."""

    command: Sequence[str | Path]
    every: int
    """One in so many floats is tried: an emulator is slow."""

    def __call__(self, function: str, x: np.ndarray, seed: int = 0) -> np.ndarray:
        argv = [*self.command, function, str(seed)]
        done = subprocess.run(argv, input=x.tobytes(), capture_output=True, check=True)
        return np.frombuffer(done.stdout, np.float32)

    def every_exponent(self) -> np.ndarray:
        """Many floats for each exponent and sign, zeros and infinities included, NaN not."""
        bits = np.arange(0, 1 << 32, self.every, dtype=np.int64).astype(np.uint32)
        bits ^= (bits // self.every) % self.every  # vary the low bits of the mantissa too
        x = bits.view(np.float32)
        return np.concatenate([x[~np.isnan(x)], np.float32([np.inf, -np.inf, 0.0, -0.0])])

    def between(self, low: float, high: float) -> np.ndarray:
        return np.linspace(low, high, (1 << 31) // self.every, dtype=np.float32)


@pytest.fixture(scope="module", params=[*TARGETS, "neon"])
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Functions:
    folder, neon = tmp_path_factory.mktemp("support"), request.param == "neon"
    if neon and not (shutil.which(ARM) and shutil.which(EMULATOR)):
        pytest.skip(f"{ARM} or {EMULATOR} is not installed")
    target = describe(ARM, "armv8-a") if neon else TARGETS[request.param]
    (folder / "support.h").write_text(render("c/support.h", VEC=target.instructions.vector))
    (folder / "apply.c").write_text(SOURCE)
    command = [target.compiler, *target.flags, *FLAGS, *["-static"] * neon, "apply.c", "-o", "apply", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    return Functions([EMULATOR, folder / "apply"] if neon else [folder / "apply"], 1 << (15 if neon else 11))


def ulps(y: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error in units of the last place of the exact value."""
    return np.abs(y - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def test_exp(functions: Functions) -> None:
    x = np.concatenate([functions.every_exponent(), functions.between(-90, 90)])
    with np.errstate(over="ignore", under="ignore"):
        exact = np.exp(x.astype(np.float64))
    y = functions("exp", x)
    normal = (x > -86.9) & (x < 88.72)
    assert ulps(y[normal], exact[normal]).max() < 1.3
    assert np.all(y[x < -87] == 0)
    assert np.all(np.abs(y[x <= -86.9] - exact[x <= -86.9]) < 1.9e-38)
    assert np.all(y[x > 88.73] == np.inf)


def test_exp2(functions: Functions) -> None:
    x = np.concatenate([functions.every_exponent(), functions.between(-130, 127), np.float32([np.nan])])
    x = x[~(x > 127)]
    exact = np.exp2(x.astype(np.float64))
    y = functions("exp2", x)
    normal = x >= -126
    assert ulps(y[normal], exact[normal]).max() < 2.3
    assert np.all(y[x < -126] == 0)
    assert np.all(y[x == 0] == 1)
    assert np.isnan(y[-1])


def test_tanh(functions: Functions) -> None:
    x = functions.every_exponent()
    exact = np.tanh(x.astype(np.float64))
    y = functions("tanh", x)
    normal = np.abs(x) > 1e-37
    assert ulps(y[normal], exact[normal]).max() < 1.4
    assert np.array_equal(y[~normal], x[~normal])
    assert np.array_equal(np.signbit(y), np.signbit(x))


@pytest.mark.parametrize(("name", "function"), [("sin", np.sin), ("cos", np.cos)])
def test_sines(functions: Functions, name: str, function: np.ufunc) -> None:
    """As angles of rotary positions go, up to a radian a position, and far beyond."""
    x = np.concatenate([functions.every_exponent(), functions.between(-40, 40), functions.between(0, 2**21)])
    y = functions(name, x)
    inside = np.abs(x) < 2**31
    assert np.all(np.isnan(y[~inside]))
    x, y = x[inside], y[inside]
    exact = function(x.astype(np.float64))
    near = np.abs(x) * 2.0**-52  # what the reduction loses
    assert ulps(y, exact)[near < 2.0**-28 * np.abs(exact)].max() < 1.6
    assert np.all(np.abs(y - exact) <= 1.6 * np.spacing(np.abs(exact).astype(np.float32)) + near)
    assert np.all(np.abs(y) <= 1)


def test_sigmoid(functions: Functions) -> None:
    x = functions.every_exponent()
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    y = functions("sigmoid", x)
    normal = x > -87
    assert ulps(y[normal], exact[normal]).max() < 2.5
    assert np.all(y[~normal] < 1.7e-38)


def test_gelu(functions: Functions) -> None:
    x = np.concatenate([functions.every_exponent(), functions.between(-12, 12)])
    x = x[np.abs(x) < 1e38]
    x64 = x.astype(np.float64)
    with np.errstate(over="ignore"):
        exact = x64 / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x64 + 0.044715 * x64**3)))
    y = functions("gelu", x)
    middle = (np.abs(x) < 4) & (np.abs(x) > 1e-36)
    assert ulps(y[middle], exact[middle]).max() < 22
    small = np.abs(x) < 10
    assert np.abs(y - exact)[small].max() < 1e-6
    assert ulps(y[x >= 10], exact[x >= 10]).max() < 2
    assert np.abs(y[x <= -10]).max() < 1e-20


def test_bf16_rounds_to_nearest_even(functions: Functions) -> None:
    halves = np.arange(1 << 16, dtype=np.uint32) << 16
    bits = np.concatenate([halves + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    x = bits.astype(np.uint32).view(np.float32)
    x = x[~np.isnan(x)]
    with np.errstate(over="ignore"):
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(functions("round_bf16", x).view(np.uint32), expected.view(np.uint32))


def test_stochastic_rounding_has_the_bits_of_the_interpreter(functions: Functions) -> None:
    x = np.concatenate(
        [functions.every_exponent(), np.float32([np.nan, -np.nan]), np.uint32([0x7FFFFFFF]).view(np.float32)]
    )
    for seed in (0, 1, -7):
        y = functions("draw", x, seed)
        (expected,) = StochasticRound().eval(x, np.int32(seed))
        assert y.astype(ml_dtypes.bfloat16).tobytes() == expected.tobytes()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_propagates(functions: Functions, function: str) -> None:
    assert np.all(np.isnan(functions(function, np.full(37, np.nan, np.float32))))
