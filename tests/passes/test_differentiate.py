"""Gradients against central differences in float64, and what differentiation refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gptc.errors import Span
from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Value
from gptc.ir.interp import interpret
from gptc.ir.types import Array, DType, TensorType
from gptc.passes.differentiate import Differentiate, parameters, sum_to
from gptc.passes.manager import Context, UserFault
from gptc.passes.recognise import Recognise
from gptc.passes.simplify import Simplify
from tests.ir.random_graphs import VOCABULARY, graphs
from tests.ir.samples import f32
from tests.passes.gpt2 import Gpt2, feeds

STEP = 2.0**-13
"""About the fifth root of the rounding unit of float64, where fourth-order differences are most exact."""


def slope(graph: Graph, arrays: dict[str, Array], key: str, direction: Array) -> tuple[float, float]:
    """d loss / d direction of one parameter by fourth-order central differences, and a bound on their error."""
    where = arrays[key].astype(np.float64)

    def loss(step: float) -> float:
        return float(interpret(graph, arrays | {key: where + step * direction}, wide=True)["loss"])

    coarse, fine = ((loss(h) - loss(-h)) / (2 * h) for h in (2 * STEP, STEP))
    rounding = float(np.finfo(np.float64).eps) * abs(loss(0)) * len(graph.nodes) / STEP
    return fine + (fine - coarse) / 3, abs(fine - coarse) + rounding


def check(graph: Graph, seed: int) -> None:
    """Every gradient of `graph`, along a random direction each."""
    rng = np.random.default_rng(seed)
    arrays = feeds(graph, seed, VOCABULARY)
    grads = interpret(Differentiate().run(graph, Context()), arrays, wide=True)
    for key in parameters(graph):
        direction = rng.standard_normal(arrays[key].shape)
        direction /= max(1.0, float(np.linalg.norm(direction)))
        expected, error = slope(graph, arrays, key, direction)
        found = float(np.sum(grads[f"grad:{key}"] * direction))
        assert abs(found - expected) <= error, f"{key}: {found} but differences give {expected} +- {error}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("recognise", [True, False])
def test_gpt2(recognise: bool, seed: int) -> None:
    graph = Simplify().run(Gpt2().graph(), Context())
    check(Recognise().run(graph, Context()) if recognise else graph, seed)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(max_steps=8).filter(lambda g: not {n.op.name for n in g.nodes} & {"relu"}))
def test_random_graphs(graph: Graph) -> None:
    """Without relu, whose kink no difference can cross."""
    check(graph, seed=3)


def test_the_same_operand_twice() -> None:
    b = Builder("square")
    w = b.buffer(label="w", key="w", shape=(3,))
    b.output("loss", b.reduce_sum(b.mul(w, w), axes=(0,)))
    grads = interpret(Differentiate(seed=0.5).run(b.build(), Context()), {"w": np.array([1.0, 2.0, 3.0])})
    np.testing.assert_array_equal(grads["grad:w"], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("grad", "operand"),
    [((2, 3, 4), (3, 4)), ((2, 3, 4), (4,)), ((2, 3, 4), ()), ((2, 3, 4), (2, 3, 1)), ((2, 3, 4), (1, 3, 4)),
     ((2, 3, 4), (2, 1, 4)), ((2, 3, 4), (2, 1, 1)), ((2, 3, 4), (1, 3, 1)), ((2, 3, 4), (3, 1)), ((2, 3), (2, 3))],
)  # fmt: skip
def test_broadcasts_are_summed_back(grad: tuple[int, ...], operand: tuple[int, ...]) -> None:
    b = Builder("sum")
    x = b.input(label="x", key="x", shape=grad)
    b.output("y", sum_to(b, x, f32(*operand)))
    array = np.random.default_rng(0).integers(-8, 8, grad).astype(np.float32)
    (found,) = interpret(b.build(), {"x": array}).values()
    lead = len(grad) - len(operand)
    wanted = array.sum(tuple(range(lead)))
    for axis, size in enumerate(operand):
        if size == 1:
            wanted = wanted.sum(axis, keepdims=True)
    np.testing.assert_array_equal(found, wanted)


def test_backward_nodes_say_where_they_come_from() -> None:
    b = Builder("origin")
    span = Span("m.yaml", 7)
    w = b.buffer(label="w", key="w", shape=(3,))
    with b.place(span, "h.3"):
        y = b.tanh(w, label="y")
    b.output("loss", b.reduce_sum(y, axes=(0,)))
    graph = Differentiate().run(b.build(), Context())
    backward = graph.producer["d.w"]
    assert (backward.span, backward.origin) == (span, "d h.3")
    assert all(n.name.startswith("d.") or n.origin.startswith("d") for n in graph.nodes[3:])


def test_a_parameter_without_influence_has_a_zero_gradient() -> None:
    b = Builder("unused")
    w, idle = (b.buffer(label=key, key=key, shape=(2,)) for key in ("w", "idle"))
    b.output("loss", b.reduce_sum(w, axes=(0,)))
    assert idle.name == "idle"
    context = Context()
    arrays = dict.fromkeys(("w", "idle"), np.ones(2, np.float32))
    grads = interpret(Differentiate().run(b.build(), context), arrays)
    np.testing.assert_array_equal(grads["grad:idle"], [0, 0])
    assert [(r.kind, r.node) for r in context.remarks] == [("note", "idle")]


def _gradless(b: Builder, x: Value) -> Value:
    """An op that is declared differentiable but has no rule."""
    from gptc.ir.op import Op, Types

    class Odd(Op):
        name = "odd"

        def infer(self, *operands: TensorType) -> Types:
            return operands

    (y,) = b.apply(Odd(), (x,))
    return y


def test_all_missing_rules_are_reported_at_once() -> None:
    b = Builder("missing")
    w = b.buffer(label="w", key="w", shape=(3,))
    with b.place(Span("m.yaml", 3, 5), ""):
        x = _gradless(b, w)
    with b.place(Span("m.yaml", 9, 5), ""):
        x = _gradless(b, x)
    b.output("loss", b.reduce_sum(x, axes=(0,)))
    with pytest.raises(UserFault) as caught:
        Differentiate().run(b.build(), Context())
    message = "m.yaml:{}:5: error: odd has no gradient, but %{} lies between a parameter and the loss"
    assert str(caught.value) == "\n".join((message.format(3, "odd"), message.format(9, "odd_1")))


def test_a_loss_must_be_one_number() -> None:
    b = Builder("vector")
    b.output("loss", b.buffer(label="w", key="w", shape=(3,)))
    with pytest.raises(UserFault, match=r"loss must be a single number, but it is f32\[3\]"):
        Differentiate().run(b.build(), Context())
    with pytest.raises(UserFault, match="no output `loss`"):
        Differentiate().run(Builder("empty").build(), Context())


def test_indices_have_no_gradient() -> None:
    b = Builder("ids")
    w = b.buffer(label="w", key="w", shape=(3, 2))
    ids = b.input(label="ids", key="ids", dtype=DType.i32, shape=(4,))
    b.output("loss", b.reduce_mean(b.embedding(w, ids)))
    grads = interpret(
        Differentiate().run(b.build(), Context()),
        {"w": np.zeros((3, 2), np.float32), "ids": np.array([2, 0, 2, 2], np.int32)},
    )
    np.testing.assert_array_equal(grads["grad:w"], np.array([[1, 1], [0, 0], [3, 3]]) / 8)
