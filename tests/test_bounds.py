"""Error bounds: float32 keeps within them on every op's samples, and a fault worth finding does not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from gptc.bounds import bounded
from gptc.ir.body import SCALARS
from gptc.ir.graph import Node
from gptc.ir.ops.leaf import Input
from gptc.ir.types import Array, DType
from gptc.running_error import ROUND, UNITS, Bounded, U, product, reduced, step, summed
from tests.codegen.native import nodes_with_kernels, sample_graph
from tests.ir.samples import OPS, operands, samples_of

RNG = np.random.default_rng(0)


def kernels_of(name: str) -> Iterator[tuple[Node, list[Array]]]:
    """Every node that the op's samples lower to, with f32 operands."""
    for seed, (op, types) in enumerate(samples_of(name)):
        if any(t.dtype not in (DType.f32, DType.i32) for t in types) or isinstance(op, Input):
            continue
        graph = sample_graph(name, op.attributes(), [str(t) for t in types])
        given = dict(zip((f"x{i}" for i in range(len(types))), operands(op, types, seed), strict=True))
        for node in nodes_with_kernels(graph):
            if all(v.name in given for v in node.operands):
                yield node, [given[v.name] for v in node.operands]


@pytest.mark.parametrize("name", OPS)
def test_float32_is_within_the_bound(name: str) -> None:
    for node, given in kernels_of(name):
        with np.errstate(all="ignore"):
            found = node.op.eval(*given)
        for value, expected in zip(found, bounded(node, given), strict=True):
            exact = np.asarray(expected.value, np.float64)
            with np.errstate(invalid="ignore"):
                error = np.where(value == exact, 0.0, np.abs(value.astype(np.float64) - exact))
            assert np.all(error <= expected.error), f"{name}: {float(np.max(error - expected.error)):.3g} too much"


@pytest.mark.parametrize("name", OPS)
def test_the_bound_is_narrow(name: str) -> None:
    """A relative error of one in a thousand, beyond the rounding of the type, is noticed in the largest element."""
    for node, given in kernels_of(name):
        for result, expected in zip(node.results, bounded(node, given), strict=True):
            if expected.value.size == 0 or expected.value.dtype.kind in "iu":
                continue
            largest = np.unravel_index(int(np.abs(np.where(np.isfinite(expected.value), expected.value, 0)).argmax()),
                                       expected.value.shape)  # fmt: skip
            value = float(expected.value[largest])
            allowed = (1e-3 + 2 * ROUND.get(result.type.dtype, 0)) * abs(value) + 1e-30
            assert float(expected.error[largest]) < allowed, name


RANDOM = ("noise", "stochastic_bf16")
SAMPLES = {"log": (0.1, 9.0), "sqrt": (0.0, 9.0), "rsqrt": (0.1, 9.0)}


@pytest.mark.parametrize("fn", sorted(SCALARS.keys() - {"round_f16", "round_bf16", "where", *RANDOM}))
def test_errors_of_operands_are_passed_on(fn: str) -> None:
    """Whatever operands within their bounds the exact function takes, it stays within the bound of the result."""
    arity = SCALARS[fn].numpy.nin if isinstance(SCALARS[fn].numpy, np.ufunc) else 1
    low, high = SAMPLES.get(fn, (-3.0, 3.0))
    args = [RNG.uniform(low, high, 4000) for _ in range(arity)]
    errors = [1e-3 * RNG.random(4000) for _ in range(arity)]
    if fn == "div":
        args[1] = np.copysign(np.abs(args[1]) + 0.1, args[1])
    expected = step(fn, [Bounded(a, e) for a, e in zip(args, errors, strict=True)], (4000,))
    for _ in range(20):
        moved = [a + e * RNG.uniform(-1, 1, 4000) for a, e in zip(args, errors, strict=True)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            value = np.asarray(SCALARS[fn].numpy(*moved), np.float64)
        wrong = ~(np.abs(value - expected.value) <= expected.error)
        assert not np.any(wrong & np.isfinite(value)), fn


def test_an_uncertain_condition_allows_both_sides() -> None:
    condition = Bounded(np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    yes, no = Bounded.exact(np.array([5.0, 5.0])), Bounded.exact(np.array([2.0, 2.0]))
    assert step("where", [condition, yes, no], (2,)).error.tolist() == [0.0, 3.0]


def test_sums_count_their_terms() -> None:
    x = Bounded.exact(np.full((2, 100), -3.0, np.float32))
    total = summed(x, (1,))
    assert total.value.tolist() == [-300.0, -300.0]
    assert total.error == pytest.approx(100 * U * 300)
    mean = reduced("row_mean", x, (2, 100))
    assert mean.error == pytest.approx(100 * U * 3 + 2 * U * 3)
    a = Bounded(np.full((2, 3), 2.0), np.full((2, 3), 0.1))
    b = Bounded.exact(np.full((3, 4), 5.0))
    assert product(a, b).error == pytest.approx(3 * 0.1 * 5 + 4 * U * 3 * 2.1 * 5)


def test_every_scalar_function_states_its_accuracy() -> None:
    assert UNITS.keys() <= SCALARS.keys()
