"""The verifier accepts what is right and names what is wrong: one planted fault a rule."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import given, settings

from gptc.errors import InternalError
from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Output, Placement, Value
from gptc.ir.ops.elementwise import Neg
from gptc.ir.ops.leaf import Constant, Input
from gptc.ir.ops.region import Map
from gptc.ir.ops.shape import View
from gptc.ir.types import DType, TensorType
from gptc.ir.verify import CHECKS, verify
from tests.ir.planned import by_hand, fused_step
from tests.ir.random_graphs import graphs
from tests.ir.samples import f32

STEP = by_hand(fused_step(), error=0, scaled=0, dw=768)
Fault = Callable[[Graph], Graph]


def swap(graph: Graph, name: str, change: Callable[[Node], Node]) -> Graph:
    """The graph with one node changed."""
    return replace(graph, nodes=tuple(change(n) if n.name == name else n for n in graph.nodes))


def place(graph: Graph, name: str, segment: str, offset: int) -> Graph:
    return replace(graph, plan=dict(graph.plan) | {name: Placement(segment, offset)})


def unplaced(graph: Graph) -> Graph:
    return replace(graph, plan={k: p for k, p in graph.plan.items() if k != "dw"})


def retyped(graph: Graph) -> Graph:
    return swap(graph, "dw", lambda n: replace(n, results=(Value("dw", f32(16, 17)),)))


def reading_a_constant(graph: Graph) -> Graph:
    one = Node(Constant(value=1.0), (), (Value("k", f32()),))
    lr = next(n for n in graph.nodes if n.name == "lr").results[0]
    update = {"new": lambda n: replace(n, operands=tuple(one.results[0] if v == lr else v for v in n.operands))}
    return replace(graph, nodes=(one, *(update.get(n.name, lambda n: n)(n) for n in graph.nodes)))


def unlowered(graph: Graph) -> Graph:
    return swap(graph, "scaled", lambda n: replace(n, op=Neg()))


def strided_operand(graph: Graph) -> Graph:
    """A column region that reads every other row."""
    error = next(v for v in graph.values() if v.name == "error")
    view = View(shape=(6, 16), strides=(32, 1))
    node = Node(view, (error,), (Value("even", TensorType.of(DType.f32, (6, 16), (32, 1))),))
    at = next(i for i, n in enumerate(graph.nodes) if n.name == "loss")
    nodes = (*graph.nodes[:at], node, *graph.nodes[at:])
    return swap(replace(graph, nodes=nodes), "loss", lambda n: replace(n, operands=node.results))


FAULTS: list[tuple[str, Fault, str]] = [
    ("names_are_unique", lambda g: replace(g, nodes=g.nodes + g.nodes[-1:]), "%new is defined twice"),
    ("operands_are_defined_before_use", lambda g: replace(g, nodes=g.nodes[::-1]), "%dw is not defined before"),
    (
        "operands_are_defined_before_use",
        lambda g: swap(g, "scaled", lambda n: replace(n, operands=(Value("error", f32(16, 12)),))),
        "%error is used as f32[16,12] but defined as f32[12,16]",
    ),
    (
        "types_are_inferred",
        lambda g: swap(g, "loss", lambda n: replace(n, results=(Value("loss", f32(1)),))),
        "recorded",
    ),
    ("types_are_inferred", lambda g: swap(g, "dw", lambda n: replace(n, operands=n.operands[:1])), "%dw = gemm: "),
    (
        "keys_are_unique",
        lambda g: swap(g, "lr", lambda n: replace(n, op=Input(key="one"))),
        "2 leaves are the input 'one'",
    ),
    ("keys_are_unique", lambda g: swap(g, "lr", lambda n: replace(n, op=Input())), "a leaf of kind input has no key"),
    (
        "outputs_exist",
        lambda g: replace(g, outputs=(*g.outputs, Output("norm", Value("norm", f32())))),
        "output 'norm' is %norm: f32[], which no node defines",
    ),
    ("outputs_exist", lambda g: replace(g, outputs=g.outputs + g.outputs[:1]), "2 outputs are called 'loss'"),
    (
        "stores_fit_their_buffers",
        lambda g: replace(g, outputs=tuple(replace(o, name="w.m") if o.name == "loss" else o for o in g.outputs[:2])),
        "%loss: f32[] does not fit into f32[16,16]",
    ),
    ("everything_has_a_kernel", unlowered, "%scaled = neg: should have been lowered"),
    ("constants_are_literals", reading_a_constant, "%new = adamw: reads the constant %k"),
    ("strides_are_readable", strided_operand, "%loss = column: cannot read %even: f32[6,16]{32,1}"),
    ("everything_is_placed", unplaced, "%dw has no place"),
    ("everything_is_placed", lambda g: place(g, "dw", "io", 4096), "%dw is in io but belongs in arena"),
    ("everything_is_placed", lambda g: place(g, "dw", "arena", 776), "%dw begins at arena+776"),
    ("views_lie_in_their_base", lambda g: place(g, "rows", "io", 4), "%rows = view: is at 4, its base puts it at 0"),
    (
        "stores_land_in_their_buffers",
        lambda g: place(g, "new.m", "state", 2048),
        "is at state+2048, the buffer 'w.m'",
    ),
    ("nothing_live_is_overwritten", lambda g: place(g, "dw", "arena", 704), "%dw = gemm: overwrites %scaled"),
    ("nothing_live_is_overwritten", lambda g: place(g, "scaled", "arena", 64), "%scaled = map: overwrites %error"),
    ("nothing_live_is_overwritten", lambda g: place(g, "loss", "io", 0), "%loss = column: overwrites %x"),
]


@pytest.mark.parametrize(("rule", "fault", "message"), FAULTS, ids=lambda p: p if isinstance(p, str) else "")
def test_a_planted_fault_is_found_by_its_rule(rule: str, fault: Fault, message: str) -> None:
    broken = fault(STEP)
    with pytest.raises(InternalError) as caught:
        verify(broken, "planned")
    assert message in str(caught.value)
    check = next(check for _, checks in CHECKS for check in checks if check.__name__ == rule)
    assert any(message in str(finding) for finding in check(broken))


def test_every_rule_has_a_fault() -> None:
    assert {rule for rule, _, _ in FAULTS} == {check.__name__ for _, checks in CHECKS for check in checks}


def test_a_right_graph_passes_at_every_stage() -> None:
    for stage in ("built", "fused", "scheduled", "planned"):
        verify(STEP, stage)


def test_rules_hold_from_their_stage_on() -> None:
    """Primitives are right until `fused`, an empty plan until `planned`."""
    verify(unlowered(STEP), "precise")
    verify(replace(STEP, plan={}), "scheduled")


def test_all_findings_come_at_once() -> None:
    with pytest.raises(InternalError) as caught:
        verify(place(place(STEP, "dw", "io", 0), "scaled", "io", 64), "planned")
    assert len(caught.value.diagnostics) == 2


@pytest.mark.parametrize(
    ("strides", "readable"), [((8, 1), True), ((1, 8), True), ((16, 2), False)], ids=["rows", "columns", "gaps"]
)
def test_a_gemm_reads_rows_or_columns_without_gaps(strides: tuple[int, int], readable: bool) -> None:
    b = Builder("gemm")
    base = b.input(key="x", shape=(8, 16))
    x = b.view(base, shape=(8, 8), strides=strides)
    b.output("y", b.gemm(x, x, dtypes=("f32",)))
    with nullcontext() if readable else pytest.raises(InternalError, match="with these strides"):
        verify(b.build("fused"), "fused")


@pytest.mark.parametrize(("strides", "readable"), [((60, 4, 12, 1), True), ((60, 20, 1, 5), False)])
def test_attention_reads_whole_vectors(strides: tuple[int, ...], readable: bool) -> None:
    b = Builder("attention")
    base = b.input(key="x", shape=(2, 60))
    x = b.view(base, shape=(2, 3, 5, 4), strides=strides)
    b.output("y", b.attention(x, x, x)[0])
    with nullcontext() if readable else pytest.raises(InternalError, match="with these strides"):
        verify(b.build("fused"), "fused")


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_random_graphs_are_right(graph: Graph) -> None:
    verify(graph, "built")


def test_it_takes_milliseconds() -> None:
    """It runs after every pass: some 700 nodes in at most 50 ms of a slow processor."""
    b = Builder("long")
    x = b.input(label="x", key="x", shape=(4, 64))
    for _ in range(700):
        x = b.map(x, dtypes=("f32",))
    b.output("y", x)
    plan = {v.name: Placement("arena", 1024 * (i % 2)) for i, v in enumerate(b.build().values())}
    plan |= {"x": Placement("io", 0), x.name: Placement("io", 1024)}
    graph = replace(b.build("planned"), plan=plan)
    best = min(_seconds(graph) for _ in range(5))
    assert isinstance(graph.nodes[1].op, Map)
    assert best < 0.05


def _seconds(graph: Graph) -> float:
    start = time.process_time()
    verify(graph, "planned")
    return time.process_time() - start
