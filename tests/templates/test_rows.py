"""embedding, scatter_add, adamw and sum_squares against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gptc.ir.ops.random import StochasticRound
from tests.templates.kernel_library import TARGETS, UNIT, Library, assert_within

ADAMW = (
    ("adamw", "f32", "", False), ("adamw_copy", "f32", "bf16", False), ("adamw_random_copy", "f32", "bf16", True),
    ("adamw_narrow", "bf16", "", False), ("adamw_random", "bf16", "", True),
)  # fmt: skip
BETA1, BETA2, EPS, DECAY = 0.9, 0.95, 1e-8, 0.1
SIZES = [1, 2, 15, 17, 16384, 16385, 100003]


@pytest.fixture(scope="module", params=TARGETS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    kernels: dict[str, tuple[str, dict[str, object]]] = {name: (name, {}) for name in ("scatter_add", "sum_squares")}
    kernels["embedding"] = ("embedding", {"ctype": "float"})
    constants = {"beta1": BETA1, "beta2": BETA2, "eps": EPS, "weight_decay": DECAY, "eps_hat": False}
    for name, dtype, copy, stochastic in ADAMW:
        kernels[name] = ("adamw", constants | {"dtype": dtype, "copy": copy, "stochastic": stochastic})
    return Library(tmp_path_factory.mktemp("rows"), TARGETS[request.param], kernels)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(("v", "rows", "cols"), [(1, 1, 1), (11, 7, 13), (50, 300, 768), (5, 1, 129)])
def test_embedding(library: Library, v: int, rows: int, cols: int) -> None:
    rng = np.random.default_rng([v, rows, cols])
    w, ids = normal(rng, v, cols), rng.integers(0, v, rows, dtype=np.int32)
    out = np.zeros((rows, cols), np.float32)
    library.check_threads("embedding", [w, ids], [out], [rows, cols])
    assert np.array_equal(out, w[ids])


@pytest.mark.parametrize(("v", "rows", "cols"), [(1, 1, 1), (11, 700, 13), (3, 100, 768), (5, 1, 129)])
def test_scatter_add(library: Library, v: int, rows: int, cols: int) -> None:
    """Exactly the sums taken one by one in the order of the rows, with repeated ids."""
    rng = np.random.default_rng([v, rows, cols])
    base, dy, ids = normal(rng, v, cols), normal(rng, rows, cols), rng.integers(0, v, rows, dtype=np.int32)
    expected = base.copy()
    np.add.at(expected, ids, dy)
    result = np.zeros_like(base)
    library.check_threads("scatter_add", [base, ids, dy], [result], [v, rows, cols])
    assert np.array_equal(result, expected)
    library.call("scatter_add", base, ids, dy, base, v, rows, cols)
    assert np.array_equal(base, expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("step", [1, 1000])
def test_adamw(library: Library, n: int, step: int) -> None:
    rng = np.random.default_rng([n, step])
    p, g, m, v = normal(rng, n), normal(rng, n), normal(rng, n), normal(rng, n) ** 2
    lr, scale = np.float32([0.01]), np.float32([0.5])
    old = [x.copy() for x in (p, m, v)]

    grad = scale.astype(np.float64) * g
    mean = BETA1 * m + (1 - BETA1) * grad
    square = BETA2 * v + (1 - BETA2) * grad**2
    update = mean / (1 - BETA1**step) / (np.sqrt(square / (1 - BETA2**step)) + EPS)
    expected = p - lr * (update + DECAY * p)
    # Each operation and each constant rounds once: fewer than 8 on the way to either moment, 16 to the update.
    moment_bound = 8 * UNIT * (np.abs(m) + np.abs(grad))
    square_bound = 8 * UNIT * square
    size = (BETA1 * np.abs(m) + (1 - BETA1) * np.abs(grad)) / (1 - BETA1**step)
    size = size / (np.sqrt(square / (1 - BETA2**step)) + EPS)
    bound = UNIT * np.abs(expected) + 16 * UNIT * lr * (size + DECAY * np.abs(p)) + UNIT * np.abs(p)

    results = [np.zeros_like(p) for _ in range(3)]
    operands = [p, g, m, v, lr, np.float32([step]), scale]
    library.check_threads("adamw", operands, results, [n])
    for actual, exact, limit in zip(
        results, (expected, mean, square), (bound, moment_bound, square_bound), strict=True
    ):
        assert_within(actual, exact, limit)
    assert all(np.array_equal(x, y) for x, y in zip((p, m, v), old, strict=True)), "an operand was written"
    library.call("adamw", *operands, p, m, v, n)
    assert all(np.array_equal(x, y) for x, y in zip((p, m, v), results, strict=True)), "in place differs"


@pytest.mark.parametrize("n", SIZES)
def test_adamw_in_bf16(library: Library, n: int) -> None:
    """Copies and parameters in bf16 are those in f32 rounded, to the bit, to nearest and at random."""
    rng = np.random.default_rng(n)
    seed = np.array([-5 - n], np.int32)
    rates = [np.float32([x]) for x in (0.01, 7, 0.5)]
    p, g, m, v = normal(rng, n).astype(ml_dtypes.bfloat16), normal(rng, n), normal(rng, n), normal(rng, n) ** 2
    exact = [np.zeros(n, np.float32) for _ in range(3)]
    library.check_threads("adamw", [p.astype(np.float32), g, m, v, *rates], exact, [n])
    new = exact[0]
    nearest = new.astype(ml_dtypes.bfloat16)
    (drawn,) = StochasticRound().eval(new, seed[0])
    assert n < 15 or not np.array_equal(nearest.view(np.uint16), drawn.view(np.uint16))
    for name, dtype, copy, stochastic in ADAMW[1:]:
        own = [p.astype(np.float32) if dtype == "f32" else p.copy(), m.copy(), v.copy()]
        results = [np.zeros_like(x) for x in (*own, p)[: 4 if copy else 3]]
        operands = [own[0], g, *own[1:], *([seed] if stochastic else []), *rates]
        library.check_threads(name, operands, results, [n])
        rounded = drawn if stochastic else nearest
        expected = [new if copy else rounded, *exact[1:], rounded]
        assert all(x.tobytes() == y.tobytes() for x, y in zip(results, expected, strict=False)), name
        library.call(name, *operands, *own, *results[3:], n)
        assert all(x.tobytes() == y.tobytes() for x, y in zip(own, expected, strict=False)), f"{name} in place"


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("size", [1.0, 1e-20])
def test_sum_squares(library: Library, n: int, size: float) -> None:
    """Accumulated in double: only the last rounding shows, and squares below the range of f32 still count."""
    x = normal(np.random.default_rng(n), n) * np.float32(size)
    result = np.zeros(1, np.float32)
    library.check_threads("sum_squares", [x], [result], [n])
    assert_within(result, np.sum(x.astype(np.float64) ** 2), 1.01 * UNIT * np.sum(x.astype(np.float64) ** 2))
