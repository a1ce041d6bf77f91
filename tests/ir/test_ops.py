"""Laws that every op of the registry keeps."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from gptc.ir.build import Builder
from gptc.ir.graph import Value
from gptc.ir.interp import interpret
from gptc.ir.op import Op, ShapeError
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.leaf import Leaf
from gptc.ir.text import parse_graph, print_graph
from gptc.ir.types import Array, TensorType
from tests.ir.samples import OPS, every_sample, f32, operands

EVERY_SAMPLE = every_sample()


@pytest.mark.parametrize("name", OPS)
def test_is_declared_in_full(name: str) -> None:
    cls = REGISTRY[name]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert cls.__doc__
    assert not cls.__doc__.startswith(cls.__name__ + "("), "the docstring is the one that dataclass wrote"
    assert cls.samples or issubclass(cls, Leaf)
    assert set(cls.saved) <= set(cls.results)
    if cls.differentiable:
        assert cls.vjp is not Op.vjp


@pytest.mark.parametrize(("op", "types"), EVERY_SAMPLE)
def test_inferred_types_are_what_eval_gives(op: Op, types: tuple[TensorType, ...]) -> None:
    inferred = op.infer(*types)
    narrow = op.eval(*operands(op, types, seed=1))
    assert [(a.shape, a.dtype) for a in narrow] == [(t.shape, t.dtype.numpy) for t in inferred]
    assert op.flops(*types) >= 0
    if any(t.dtype.is_float for t in types):
        wide = op.eval(*operands(op, types, seed=1, wide=True))
        kinds = [np.dtype(np.float64) if t.dtype.is_float else t.dtype.numpy for t in inferred]
        assert [(a.shape, a.dtype) for a in wide] == [(t.shape, k) for t, k in zip(inferred, kinds, strict=True)]


@pytest.mark.parametrize(("op", "types"), EVERY_SAMPLE)
def test_float32_is_near_float64(op: Op, types: tuple[TensorType, ...]) -> None:
    """Both start from the same float32 numbers; the error grows with the number of terms that enter a result."""
    narrow = operands(op, types, seed=2)
    wide = [a.astype(np.float64) if a.dtype.kind not in "iu" else a for a in narrow]
    eps = max((t.dtype.eps for t in (*types, *op.infer(*types)) if t.dtype.is_float), default=0.0)
    terms = sum(t.count for t in types)
    for a, b in zip(op.eval(*narrow), op.eval(*wide), strict=True):
        scale = float(np.max(np.abs(b), initial=1.0, where=np.isfinite(b)))
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=0, atol=4 * eps * (1 + math.sqrt(terms)) * scale)


@pytest.mark.parametrize(("op", "types"), EVERY_SAMPLE)
def test_operands_of_the_wrong_number_are_refused(op: Op, types: tuple[TensorType, ...]) -> None:
    if op.name in ("concat", "global_norm", "norm_over_ranks"):
        pytest.skip("takes any number")
    for wrong in ((*types, f32(3)), types[:-1]):
        if wrong != types:
            with pytest.raises(ShapeError, match="operand"):
                op.infer(*wrong)


def leaf(b: Builder, key: str, kind: TensorType) -> Value:
    value: Value = b.input(key=key, label=key, dtype=kind.dtype, shape=kind.shape)
    return value


@pytest.mark.parametrize(("op", "types"), EVERY_SAMPLE)
def test_text_form_round_trips(op: Op, types: tuple[TensorType, ...]) -> None:
    b = Builder("sample")
    for value in b.apply(op, [leaf(b, f"x{i}", t) for i, t in enumerate(types)]):
        b.output(value.name, value)
    graph = b.build()
    assert parse_graph(print_graph(graph)) == graph


DIFFERENTIABLE = [p for p in EVERY_SAMPLE if p.values[0].differentiable and "bf16" not in str(p.values[1][0])]


def gradients(op: Op, types: tuple[TensorType, ...], arrays: list[Array], seeds: list[Array]) -> list[Array | None]:
    """The op's own vjp, built as a graph and interpreted in float64; broadcast operands are summed back."""
    b = Builder("vjp")
    inputs = [leaf(b, f"x{i}", t) for i, t in enumerate(types)]
    results = b.apply(op, inputs)
    labels = op.results if len(op.results) == len(results) else ("y",) * len(results)
    flowing = [label not in op.saved for label in labels]
    grads = [
        leaf(b, f"g{i}", r.type) if flows else None for i, (r, flows) in enumerate(zip(results, flowing, strict=True))
    ]
    found = op.vjp(b, inputs, results, grads)
    assert len(found) == len(inputs)
    for i, value in enumerate(found):
        if value is not None:
            b.output(f"d{i}", value)
    feeds = {f"x{i}": a for i, a in enumerate(arrays)} | {f"g{i}": s for i, s in enumerate(seeds)}
    outputs = interpret(b.build(), feeds, wide=True)
    return [sum_back(outputs[f"d{i}"], a.shape) if f"d{i}" in outputs else None for i, a in enumerate(arrays)]


def carried(op: Op, count: int) -> list[int]:
    """Results that carry a gradient."""
    return [i for i in range(count) if not op.saved or op.results[i] not in op.saved]


def sum_back(grad: Array, shape: tuple[int, ...]) -> Array:
    lead = grad.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and grad.shape[lead + i] != 1)
    return grad.sum(axes).reshape(shape)


STEP = np.finfo(np.float64).eps ** (1 / 3)
"""Best step of a central difference: truncation ~ step^2, rounding ~ eps / step, both this squared."""


@pytest.mark.parametrize(("op", "types"), DIFFERENTIABLE)
def test_vjp_is_the_gradient(op: Op, types: tuple[TensorType, ...]) -> None:
    """Against central differences of <seeds, op(x)>: element by element, then along one direction of all operands."""
    rng = np.random.default_rng(3)
    arrays = operands(op, types, seed=3, wide=True)
    outputs = op.eval(*arrays)
    seeds = [rng.standard_normal(a.shape) for a in outputs]

    def value(at: list[Array]) -> float:
        made = op.eval(*at)
        return sum(weighed(made[i], seeds[i]) for i in carried(op, len(made)))

    grads = gradients(op, types, arrays, seeds)
    size = max(1.0, sum(weighed(np.abs(a), np.abs(s)) for a, s in zip(outputs, seeds, strict=True)))
    tolerance = 100 * STEP**2 * size
    floats = [i for i, t in enumerate(types) if t.dtype.is_float]
    for i in floats:
        grad = grads[i]
        assert grad is not None
        assert grad.shape == arrays[i].shape
        for index in rng.permutation(arrays[i].size)[:40]:
            direction = np.zeros(arrays[i].size)
            direction[index] = 1
            step = direction.reshape(arrays[i].shape)
            slope = central_difference(value, arrays, {i: step})
            assert slope == pytest.approx(float(grad.reshape(-1)[index]), abs=tolerance), f"operand {i} at {index}"
    directions = {i: rng.standard_normal(arrays[i].shape) for i in floats}
    forward = central_difference(value, arrays, directions)
    backward = sum(float(np.sum(grads[i] * d)) for i, d in directions.items())
    assert forward == pytest.approx(backward, abs=tolerance * max(1, len(floats)) * 10)


def weighed(made: Array, seed: Array) -> float:
    """Their product, summed; masked entries (-inf) are constants and left out."""
    return float(np.sum(made * seed, where=np.isfinite(made)))


def central_difference(value: object, arrays: list[Array], directions: dict[int, Array]) -> float:
    assert callable(value)
    ahead = [a + STEP * directions[i] if i in directions else a for i, a in enumerate(arrays)]
    behind = [a - STEP * directions[i] if i in directions else a for i, a in enumerate(arrays)]
    return (value(ahead) - value(behind)) / (2 * STEP)
