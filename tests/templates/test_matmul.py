"""matmul against NumPy in float64: every transposition, epilogue, batch form and instruction set, awkward extents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.templates.kernel_library import ISAS, UNIT, Library, assert_within

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


@pytest.fixture(scope="module", params=ISAS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    isa = ISAS[request.param]
    kernels = {
        f"{form}_{kind}": (
            "matmul",
            {"dtype": "f32", "trans_a": trans_a, "trans_b": trans_b, "MR": isa.rows, "NR": isa.cols, **epilogue},
        )
        for form, (trans_a, trans_b) in FORMS.items()
        for kind, epilogue in (("plain", PLAIN), ("fused", FUSED), ("inplace", INPLACE))
        if kind == "plain" or form in ("nt", "tn")
    }
    return Library(tmp_path_factory.mktemp("matmul"), isa, kernels)


def strided(rng: np.random.Generator, *shape: int, gap: int = 3) -> np.ndarray:
    """Random f32 whose rows are `gap` elements longer than they are wide; the gap holds NaN."""
    memory = np.full((*shape[:-1], shape[-1] + gap), np.nan, np.float32)
    memory[..., : shape[-1]] = rng.standard_normal(shape, dtype=np.float32)
    return memory[..., : shape[-1]]


def stride(x: np.ndarray, axis: int) -> int:
    return x.strides[axis] // 4


def product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A B in float64, and a bound for f32: rounding errors of K partial sums, each about as large as the
    root of the sum of squares of their terms, add up like a random walk; 4 standard deviations."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return a @ b, 4 * UNIT * np.sqrt(a.shape[-1]) * np.sqrt(a**2 @ b**2)


def operands(rng: np.random.Generator, form: str, m: int, n: int, k: int, *batch: int) -> tuple[np.ndarray, ...]:
    """A and B as stored, and their logical views [..., M, K] and [..., K, N]."""
    trans_a, trans_b = FORMS[form]
    a = strided(rng, *batch, *((k, m) if trans_a else (m, k)))
    b = strided(rng, *batch, *((n, k) if trans_b else (k, n)))
    return a, b, a.swapaxes(-1, -2) if trans_a else a, b.swapaxes(-1, -2) if trans_b else b


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
        (20, 500, 1700),
        (1031, 11, 1550),
        (9, 13, 3089),
    ],
)
def test_plain(library: Library, form: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng([m, n, k])
    a, b, a_view, b_view = operands(rng, form, m, n, k)
    c = strided(rng, m, n, gap=5)
    library.check_threads(
        f"{form}_plain", [a, b], [c], [m, n, k, stride(a, 0), stride(b, 0), stride(c, 0), 1, 1, 0, 0, 0, 0, 0, 0]
    )
    assert_within(c, *product(a_view, b_view))
    assert np.all(np.isnan(c.base[:, n:])), "wrote past the end of a row"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 64), (5, 66, 33)])
def test_batches(library: Library, form: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng([m, n, k])
    a, b, a_view, b_view = operands(rng, form, m, n, k, 3, 5)
    c = strided(rng, 3, 5, m, n)
    strides = [stride(x, axis) for x in (a, b, c) for axis in (0, 1)]
    library.check_threads(
        f"{form}_plain", [a, b], [c], [m, n, k, stride(a, 2), stride(b, 2), stride(c, 2), 3, 5, *strides]
    )
    assert_within(c, *product(a_view, b_view))


@pytest.mark.parametrize("form", ["nt", "tn"])
@pytest.mark.parametrize("k", [40, 1601])
def test_epilogue(library: Library, form: str, k: int) -> None:
    m, n = 35, 79
    rng = np.random.default_rng(k)
    a, b, a_view, b_view = operands(rng, form, m, n, k)
    residual, pre, c = strided(rng, m, n), strided(rng, m, n), strided(rng, m, n)
    bias, weight, factor = strided(rng, n), strided(rng, m), strided(rng, 1)
    extents = [m, n, k, stride(a, 0), stride(b, 0), stride(c, 0), 1, 1, 0, 0, 0, 0, 0, 0]
    library.check_threads(f"{form}_fused", [a, b, residual, bias, weight, factor], [pre, c], extents)
    exact, bound = product(a_view, b_view)
    t0 = exact + bias
    bound = bound + UNIT * np.abs(t0)
    assert_within(pre, t0, bound)
    t1 = t0 * weight[:, None].astype(np.float64) + residual.astype(np.float64) * factor
    rounding = 2 * UNIT * (np.abs(t0 * weight[:, None]) + np.abs(residual * factor))
    assert_within(c, t1, bound * np.abs(weight[:, None]) + rounding)


@pytest.mark.parametrize("form", ["nt", "tn"])
@pytest.mark.parametrize("k", [40, 3100])
def test_accumulates_in_place(library: Library, form: str, k: int) -> None:
    m, n = 35, 79
    rng = np.random.default_rng(k)
    a, b, a_view, b_view = operands(rng, form, m, n, k)
    c = strided(rng, m, n)
    old = c.astype(np.float64)
    extents = [m, n, k, stride(a, 0), stride(b, 0), stride(c, 0), 1, 1, 0, 0, 0, 0, 0, 0]
    library.call(f"{form}_inplace", a, b, c, c, *extents)
    exact, bound = product(a_view, b_view)
    assert_within(c, old + exact, bound + UNIT * np.abs(old + exact))
