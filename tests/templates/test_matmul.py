"""matmul against NumPy in float64: every transposition, dtype, epilogue, batch form, instruction set; odd extents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.templates.kernel_library import BF16, TARGETS, TILE, UNIT, WIDEST, Library, assert_within

FORMS = {"nn": (False, False), "nt": (False, True), "tn": (True, False), "tt": (True, True)}


def floats(name: str) -> dict[str, Any]:
    """A tensor of the epilogue."""
    return {"name": name, "ctype": "float"}


PLAIN: dict[str, Any] = {"inputs": [], "results": [floats("c")], "body": [], "stores": ["*c = acc;"]}
FUSED: dict[str, Any] = {
    "inputs": [
        floats("residual") | {"access": "full"},
        floats("bias") | {"access": "col"},
        floats("weight") | {"access": "row"},
        floats("factor") | {"access": "scalar"},
    ],
    "results": [floats("pre"), floats("c")],
    "body": ["const float t0 = acc + bias;", "const float t1 = t0 * weight + residual * factor;"],
    "stores": ["*pre = t0;", "*c = t1;"],
}
INPLACE: dict[str, Any] = {
    "inputs": [floats("old") | {"access": "full"}],
    "results": [floats("c")],
    "body": [],
    "stores": ["*c = old + acc;"],
}
MIXED: dict[str, Any] = {
    "inputs": [{"name": "residual", "ctype": "bf16", "access": "full"}, floats("bias") | {"access": "col"}],
    "results": [{"name": "narrow", "ctype": "bf16"}, floats("c")],
    "body": ["const float t0 = acc + bias + gptc_from_bf16(residual);"],
    "stores": ["*narrow = gptc_to_bf16(t0);", "*c = t0;"],
}
EPILOGUES = {"fused": FUSED, "inplace": INPLACE, "mixed": MIXED}
ROUNDING = 2.0**-8  # the rounding unit of bf16
DTYPES: dict[str, Any] = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Products:
    """The compiled kernels for operands of one dtype."""

    library: Library
    dtype: Any

    def operands(self, rng: np.random.Generator, form: str, *sizes: int) -> tuple[np.ndarray, ...]:
        """A and B of `[*batch, m, n, k]` as stored, and their logical views [..., M, K] and [..., K, N]."""
        *batch, m, n, k = sizes
        trans_a, trans_b = FORMS[form]
        a = strided(rng, *batch, *((k, m) if trans_a else (m, k)), dtype=self.dtype)
        b = strided(rng, *batch, *((n, k) if trans_b else (k, n)), dtype=self.dtype)
        return a, b, a.swapaxes(-1, -2) if trans_a else a, b.swapaxes(-1, -2) if trans_b else b


CASES = [*(f"{name}-f32" for name in TARGETS), *([f"{next(iter(TARGETS))}-bf16"] if BF16 else [])]
CASES += ["amx-bf16"] if WIDEST.instructions.vector == TILE else []


@pytest.fixture(scope="module", params=CASES)
def products(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Products:
    name, dtype = request.param.split("-")
    target = TARGETS.get(name, WIDEST)
    tile = {"dtype": dtype, **dict(zip(("MR", "NR"), target.instructions.tile, strict=True))}
    template, blocking = ("matmul_amx", {}) if name == "amx" else ("matmul", tile)
    kernels = {
        f"{form}_{kind}": (template, {"trans_a": trans_a, "trans_b": trans_b, **blocking, **epilogue})
        for form, (trans_a, trans_b) in FORMS.items()
        for kind, epilogue in ({"plain": PLAIN} | (EPILOGUES if form in ("nt", "tn") else {})).items()
    }
    return Products(Library(tmp_path_factory.mktemp("matmul"), target, kernels), DTYPES[dtype])


def strided(rng: np.random.Generator, *shape: int, gap: int = 3, dtype: Any = np.float32) -> np.ndarray:
    """Random numbers whose rows are `gap` elements longer than they are wide; the gap holds NaN."""
    memory = np.full((*shape[:-1], shape[-1] + gap), np.nan, dtype)
    memory[..., : shape[-1]] = rng.standard_normal(shape, dtype=np.float32)
    return memory[..., : shape[-1]]


def stride(x: np.ndarray, axis: int) -> int:
    return x.strides[axis] // x.itemsize


def extents(m: int, n: int, k: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> list[int]:
    """The integer arguments of a single product."""
    return [m, n, k, stride(a, 0), stride(b, 0), stride(c, 0), 1, 1, 0, 0, 0, 0, 0, 0]


def product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A B in float64, and a bound for sums in f32: rounding errors of K partial sums, each about as large as the
    root of the sum of squares of their terms, add up like a random walk; 4 standard deviations."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return a @ b, 4 * UNIT * np.sqrt(a.shape[-1]) * np.sqrt(a**2 @ b**2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        (1, 1, 1),
        (2, 3, 5),
        (8, 48, 16),
        (7, 49, 17),
        (17, 53, 31),
        (97, 101, 103),
        (64, 800, 19),
        (20, 500, 2309),
        (24, 1800, 1601),
        (1031, 11, 1551),
        (9, 13, 6179),
    ],
)
def test_plain(products: Products, form: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng([m, n, k])
    a, b, a_view, b_view = products.operands(rng, form, m, n, k)
    c = strided(rng, m, n, gap=5)
    products.library.check_threads(f"{form}_plain", [a, b], [c], extents(m, n, k, a, b, c))
    assert_within(c, *product(a_view, b_view))
    assert np.all(np.isnan(c.base[:, n:])), "wrote past the end of a row"


@pytest.mark.skipif("amx-bf16" not in CASES, reason="this machine has no AVX-512")
@pytest.mark.parametrize("products", ["amx-bf16"], indirect=True)
def test_columns_that_are_not_packed_together(products: Products) -> None:
    """Of AMX, where threads pack B together as far as it is not too large."""
    test_plain(products, "tn", 5, 1700, 6001)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 64), (5, 66, 33)])
def test_batches(products: Products, form: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng([m, n, k])
    a, b, a_view, b_view = products.operands(rng, form, 3, 5, m, n, k)
    c = strided(rng, 3, 5, m, n)
    rows = [stride(x, 2) for x in (a, b, c)]
    batches = [stride(x, axis) for x in (a, b, c) for axis in (0, 1)]
    products.library.check_threads(f"{form}_plain", [a, b], [c], [m, n, k, *rows, 3, 5, *batches])
    assert_within(c, *product(a_view, b_view))


M, N = 35, 79  # neither fills its tiles
Check = Callable[[Products, np.random.Generator, str, int], None]


def check_fused(products: Products, rng: np.random.Generator, form: str, k: int) -> None:
    a, b, a_view, b_view = products.operands(rng, form, M, N, k)
    residual, pre, c = (strided(rng, M, N) for _ in range(3))
    bias, weight, factor = strided(rng, N), strided(rng, M), strided(rng, 1)
    operands = [a, b, residual, bias, weight, factor]
    products.library.check_threads(f"{form}_fused", operands, [pre, c], extents(M, N, k, a, b, c))
    exact, bound = product(a_view, b_view)
    t0 = exact + bias
    bound = bound + UNIT * np.abs(t0)
    assert_within(pre, t0, bound)
    t1 = t0 * weight[:, None].astype(np.float64) + residual.astype(np.float64) * factor
    rounding = 2 * UNIT * (np.abs(t0 * weight[:, None]) + np.abs(residual * factor))
    assert_within(c, t1, bound * np.abs(weight[:, None]) + rounding)


def check_inplace(products: Products, rng: np.random.Generator, form: str, k: int) -> None:
    a, b, a_view, b_view = products.operands(rng, form, M, N, k)
    c = strided(rng, M, N)
    old = c.astype(np.float64)
    products.library.call(f"{form}_inplace", a, b, c, c, *extents(M, N, k, a, b, c))
    exact, bound = product(a_view, b_view)
    assert_within(c, old + exact, bound + UNIT * np.abs(old + exact))


def check_mixed(products: Products, rng: np.random.Generator, form: str, k: int) -> None:
    """An epilogue that reads and writes both dtypes."""
    a, b, a_view, b_view = products.operands(rng, form, M, N, k)
    residual, rounded = (strided(rng, M, N, dtype=ml_dtypes.bfloat16) for _ in range(2))
    bias, c = strided(rng, N), strided(rng, M, N)
    products.library.check_threads(f"{form}_mixed", [a, b, residual, bias], [rounded, c], extents(M, N, k, a, b, c))
    exact, bound = product(a_view, b_view)
    total = exact + bias + residual.astype(np.float64)
    bound = bound + 2 * UNIT * (np.abs(exact) + np.abs(bias) + np.abs(residual.astype(np.float64)))
    assert_within(c, total, bound)
    assert_within(rounded, total, bound + ROUNDING * (np.abs(total) + bound))


@pytest.mark.parametrize("check", [check_fused, check_inplace, check_mixed])
@pytest.mark.parametrize("form", ["nt", "tn"])
@pytest.mark.parametrize("k", [40, 3101])
def test_epilogues(products: Products, check: Check, form: str, k: int) -> None:
    check(products, np.random.default_rng(k), form, k)
