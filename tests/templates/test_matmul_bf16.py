"""matmul of bf16 operands against NumPy in float64: every transposition, odd reductions, batches, epilogues."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.templates.kernel_library import BF16, ISAS, Library, assert_within
from tests.templates.test_matmul import FORMS, PLAIN, floats, product, stride

pytestmark = pytest.mark.skipif(not BF16, reason="this machine has no AVX512_BF16")

ROUNDING = 2.0**-8  # the rounding unit of bf16
MIXED: dict[str, Any] = {
    "inputs": [{"name": "residual", "ctype": "uint16_t", "access": "full"}, floats("bias") | {"access": "col"}],
    "results": [{"name": "narrow", "ctype": "uint16_t"}, floats("c")],
    "body": ["const float t0 = acc + bias + gptc_from_bf16(residual);"],
    "stores": ["*narrow = gptc_to_bf16(t0);", "*c = t0;"],
}


@pytest.fixture(scope="module", params=list(ISAS)[:1])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    isa = ISAS[request.param]
    tile = {"dtype": "bf16", "MR": isa.rows, "NR": isa.cols}
    kernels = {
        f"{form}_{kind}": ("matmul", {"trans_a": trans_a, "trans_b": trans_b, **tile, **epilogue})
        for form, (trans_a, trans_b) in FORMS.items()
        for kind, epilogue in (("plain", PLAIN), ("mixed", MIXED))
    }
    return Library(tmp_path_factory.mktemp("matmul_bf16"), isa, kernels)


def narrow(rng: np.random.Generator, *shape: int, gap: int = 3) -> np.ndarray:
    """Random bf16 whose rows are `gap` elements longer than they are wide; the gap holds NaN."""
    memory = np.full((*shape[:-1], shape[-1] + gap), np.nan, ml_dtypes.bfloat16)
    memory[..., : shape[-1]] = rng.standard_normal(shape, dtype=np.float32)
    return memory[..., : shape[-1]]


def step(x: np.ndarray, axis: int) -> int:
    return x.strides[axis] // 2


def operands(rng: np.random.Generator, form: str, m: int, n: int, k: int, *batch: int) -> tuple[np.ndarray, ...]:
    """A and B as stored, and their logical views [..., M, K] and [..., K, N]."""
    trans_a, trans_b = FORMS[form]
    a = narrow(rng, *batch, *((k, m) if trans_a else (m, k)))
    b = narrow(rng, *batch, *((n, k) if trans_b else (k, n)))
    return a, b, a.swapaxes(-1, -2) if trans_a else a, b.swapaxes(-1, -2) if trans_b else b


def results(*shape: int) -> np.ndarray:
    """f32 whose rows are 5 elements longer than they are wide; all is NaN."""
    return np.full((*shape[:-1], shape[-1] + 5), np.nan, np.float32)[..., : shape[-1]]


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
        (1031, 11, 1551),
        (9, 13, 6179),
    ],
)
def test_plain(library: Library, form: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng([m, n, k])
    a, b, a_view, b_view = operands(rng, form, m, n, k)
    c = results(m, n)
    library.check_threads(
        f"{form}_plain", [a, b], [c], [m, n, k, step(a, 0), step(b, 0), stride(c, 0), 1, 1, 0, 0, 0, 0, 0, 0]
    )
    assert_within(c, *product(a_view, b_view))
    assert np.all(np.isnan(c.base[:, n:])), "wrote past the end of a row"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 64), (5, 66, 33)])
def test_batches(library: Library, form: str, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng([m, n, k])
    a, b, a_view, b_view = operands(rng, form, m, n, k, 3, 5)
    c = results(3, 5, m, n)
    strides = [s for x in (a, b) for s in (step(x, 0), step(x, 1))] + [stride(c, 0), stride(c, 1)]
    library.check_threads(f"{form}_plain", [a, b], [c], [m, n, k, step(a, 2), step(b, 2), stride(c, 2), 3, 5, *strides])
    assert_within(c, *product(a_view, b_view))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("k", [40, 3101])
def test_epilogue_of_both_types(library: Library, form: str, k: int) -> None:
    m, n = 35, 79
    rng = np.random.default_rng(k)
    a, b, a_view, b_view = operands(rng, form, m, n, k)
    residual, bias = narrow(rng, m, n, gap=5), rng.standard_normal(n, dtype=np.float32)
    rounded, c = narrow(rng, m, n, gap=5), results(m, n)
    extents = [m, n, k, step(a, 0), step(b, 0), stride(c, 0), 1, 1, 0, 0, 0, 0, 0, 0]
    library.check_threads(f"{form}_mixed", [a, b, residual, bias], [rounded, c], extents)
    exact, bound = product(a_view, b_view)
    total = exact + bias + residual.astype(np.float64)
    bound = bound + 2 * 2.0**-24 * (np.abs(exact) + np.abs(bias) + np.abs(residual.astype(np.float64)))
    assert_within(c, total, bound)
    assert_within(rounded, total, bound + ROUNDING * (np.abs(total) + bound))
