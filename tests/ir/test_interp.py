"""The interpreter, plain and out of planned memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptc.errors import InputError, InternalError
from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node
from gptc.ir.interp import check_plan, interpret, interpret_planned
from gptc.ir.text import parse_graph, print_graph
from gptc.ir.types import Array, DType, TensorType
from tests.ir.planned import by_hand, fused_step
from tests.ir.random_graphs import feeds, graphs
from tests.ir.samples import f32

GOOD = {"error": 0, "scaled": 0, "dw": 768}
"""`scaled` in place of `error`, 768 bytes; then `dw`."""


def step_feeds() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 6, 16), "target": (12, 16), "w": (16, 16), "w.m": (16, 16), "w.v": (16, 16)}
    arrays: dict[str, Array] = {k: np.abs(rng.standard_normal(s)).astype(np.float32) for k, s in shapes.items()}
    return arrays | {k: np.asarray(x, np.float32) for k, x in (("lr", 0.1), ("step", 1), ("one", 1))}


def test_step_computes_what_numpy_does() -> None:
    f = {k: a.astype(np.float64) for k, a in step_feeds().items()}
    found = interpret(fused_step(), f, wide=True)
    x = f["x"].reshape(12, 16)
    error = x @ f["w"].T - f["target"]
    assert found["loss"] == pytest.approx((error**2).sum(), rel=1e-14)
    np.testing.assert_allclose(found["w.m"], 0.9 * f["w.m"] + 0.1 * (error / 96).T @ x, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(graphs(max_steps=15), st.integers(0, 3))
def test_float32_follows_float64(graph: Graph, seed: int) -> None:
    """A random graph: moderate values, so that some hundred roundings cost some hundred eps of the loss."""
    arrays = feeds(graph, seed)
    narrow, wide = interpret(graph, arrays)["loss"], interpret(graph, arrays, wide=True)["loss"]
    terms = sum(n.op.flops(*(v.type for v in n.operands)) for n in graph.nodes)
    assert (narrow.dtype, wide.dtype) == (np.float32, np.float64)
    assert narrow == pytest.approx(wide, rel=DType.f32.eps * terms**0.5, abs=DType.f32.eps * terms**0.5)


@settings(max_examples=60, deadline=None)
@given(graphs(max_steps=15))
def test_random_graphs_round_trip_as_text(graph: Graph) -> None:
    assert parse_graph(print_graph(graph)) == graph


def test_results_are_laid_out_as_their_types_say() -> None:
    """A transposed array from NumPy is not the contiguous tensor that the next view relies on."""
    b = Builder("layout")
    x = b.input(key="x", shape=(2, 3))
    b.output("y", b.view(b.transpose(x, perm=(1, 0)), shape=(6,), strides=(1,)))
    b.output("z", b.view(b.copy(b.view(x, shape=(3, 2), strides=(1, 3))), shape=(6,), strides=(1,)))
    found = interpret(b.build(), {"x": np.arange(6).reshape(2, 3)})
    np.testing.assert_array_equal(found["y"], [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(found["z"], [0, 3, 1, 4, 2, 5])


def test_wide_computes_literals_and_fills_in_float64() -> None:
    b = Builder("wide")
    x = b.add(b.broadcast_to(b.scalar(0.1), shape=(2,)), b.input(key="x", shape=(2,)))
    b.output("y", b.cast(x, dtype=DType.bf16))
    found = interpret(b.build(), {"x": np.zeros(2)}, wide=True)
    np.testing.assert_array_equal(found["y"], [0.1, 0.1])


def test_observer_sees_every_node_in_order() -> None:
    seen: list[str] = []

    def observe(node: Node, results: tuple[Array, ...]) -> None:
        seen.append(node.name)
        assert [a.shape for a in results] == [v.type.shape for v in node.results]

    graph = fused_step()
    interpret(graph, step_feeds(), observe=observe)
    interpret_planned(by_hand(graph, **GOOD), step_feeds(), observe=observe)
    assert seen == [n.name for n in graph.nodes] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "no value for the input 'x'"),
        ({"w": None}, "no value for the buffer 'w'"),
        ({"x": np.zeros((2, 6))}, "the input 'x' is f32[2,6,16], got an array of shape (2, 6)"),
    ],
)
def test_wrong_feeds_are_named(change: dict[str, Array | None], message: str) -> None:
    arrays = {k: a for k, a in (step_feeds() | change).items() if a is not None}
    with pytest.raises(InputError) as caught:
        interpret(fused_step(), arrays)
    assert message in str(caught.value)


def test_a_node_that_cannot_be_evaluated_is_named() -> None:
    b = Builder("ids")
    table, ids = b.input(key="w", shape=(3, 2)), b.input(key="ids", dtype=DType.i32, shape=(1,))
    b.output("y", b.embedding(table, ids, label="rows"))
    with pytest.raises(InternalError, match="cannot evaluate %rows = embedding"):
        interpret(b.build(), {"w": np.zeros((3, 2)), "ids": np.asarray([7])})


def test_a_right_plan_gives_the_same_bits() -> None:
    graph = by_hand(fused_step(), **GOOD)
    check_plan(graph, step_feeds())
    plain, planned = interpret(graph, step_feeds()), interpret_planned(graph, step_feeds())
    for name, value in plain.items():
        np.testing.assert_array_equal(value, planned[name])


def test_an_output_destroyed_after_it_was_made_is_caught() -> None:
    """`loss` is right when it is made; the gradient, in the same place, comes later."""
    graph = by_hand(fused_step(), **GOOD)
    plan = dict(graph.plan) | {"dw": graph.plan["loss"]}
    with pytest.raises(InternalError, match="the plan destroys the output 'loss'"):
        check_plan(replace(graph, plan=plan), step_feeds())


@pytest.mark.parametrize(
    ("arena", "victim"),
    [
        ({"error": 0, "scaled": 0, "dw": 704}, "dw"),  # over the end of `scaled`, which the kernel still reads
        ({"error": 0, "scaled": 64, "dw": 832}, "scaled"),  # over `error`, but not element by element
        ({"error": 0, "scaled": 0, "dw": 0}, "dw"),  # a product cannot be computed in place
    ],
)
def test_a_wrong_plan_is_caught_where_it_destroys(arena: dict[str, int], victim: str) -> None:
    with pytest.raises(InternalError, match=f"the plan destroys %{victim} "):
        check_plan(by_hand(fused_step(), **arena), step_feeds())


def test_storage_that_dies_too_early_is_poison() -> None:
    """`early` is last read through a view: whoever forgets the view takes the memory away from it."""
    b = Builder("early")
    x = b.input(label="x", key="x", shape=(4, 16))
    early = b.copy(x, label="early")
    other = b.neg(x, label="other")
    b.output("y", b.add(b.view(early, shape=(4, 16), strides=(16, 1), label="again"), other, label="sum"))
    graph = b.build()
    arrays = {"x": np.ones((4, 16))}
    check_plan(by_hand(graph, early=0, other=256), arrays)
    with pytest.raises(InternalError, match="the plan destroys %again "):
        check_plan(by_hand(graph, early=0, other=0), arrays)


def test_free_arena_is_not_a_number() -> None:
    """Whatever a plan leaves behind shows: no value of a plan survives its last reader."""
    graph = by_hand(fused_step(), **GOOD)
    seen: dict[str, Array] = {}
    kept = {"error", "scaled", "dw"}

    def observe(node: Node, results: tuple[Array, ...]) -> None:
        seen.update({v.name: a for v, a in zip(node.results, results, strict=True) if v.name in kept})

    interpret_planned(graph, step_feeds(), observe=observe)
    assert all(np.isnan(a).all() for a in seen.values())


def test_types_count_bytes_and_spans() -> None:
    strided = TensorType.of(DType.bf16, (2, 3), (8, 1))
    assert (strided.nbytes, strided.span, f32(2, 3).span, f32().span) == (12, 11, 6, 1)
