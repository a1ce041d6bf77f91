"""Storage, lifetimes, handovers, costs."""

from __future__ import annotations

from gptc.ir.analysis import Cost, cost, handovers, intervals, live_bytes, roots, segments, stored
from gptc.ir.body import body
from gptc.ir.build import Builder
from gptc.ir.graph import Graph
from gptc.ir.types import DType
from tests.ir.planned import fused_step

STEP = fused_step()


def lives(graph: Graph) -> dict[str, tuple[int, int]]:
    return {i.value.name: (i.first, i.last) for i in intervals(graph)}


def test_a_view_lives_in_its_base_and_constants_nowhere() -> None:
    b = Builder("views")
    x = b.input(label="x", key="x", shape=(4, 6))
    a = b.view(x, shape=(6,), strides=(1,), label="a")
    b.view(a, shape=(3,), strides=(2,), label="c")
    b.scalar(1.0)
    assert roots(b.build()) == {"x": "x", "a": "x", "c": "x"}


def test_segments_follow_roles_and_outputs() -> None:
    found = segments(STEP)
    arena = {name for name, segment in found.items() if segment == "arena"}
    assert arena == {"error", "scaled", "dw"}
    assert (found["w"], found["new"]) == ("params", "params")
    assert {found[n] for n in ("m", "v", "new.m", "new.v")} == {"state"}
    assert {found[n] for n in ("x", "target", "lr", "loss")} == {"io"}
    assert stored(STEP) == {"new": "w", "new.m": "m", "new.v": "v"}


def test_lifetimes() -> None:
    time = {n.name: i for i, n in enumerate(STEP.nodes)}
    found, end = lives(STEP), len(STEP.nodes)
    assert found["error"] == (time["error"], time["scaled"])
    assert found["dw"] == (time["dw"], time["new"])
    assert found["loss"] == (time["loss"], end), "outputs live to the end"
    assert found["x"] == (-1, end), "inputs belong to the caller"
    assert found["w"] == (-1, time["new"]), "the old parameter, to its last read"
    assert found["new"] == (time["new"], end)


def test_a_buffer_that_is_only_read_lives_to_the_end() -> None:
    b = Builder("read")
    w = b.buffer(label="w", key="w", shape=(4,))
    b.output("y", b.copy(w, label="y"))
    assert lives(b.build())["w"] == (-1, 2)


def test_a_view_extends_its_base_but_touches_nothing_itself() -> None:
    b = Builder("views")
    x = b.input(label="x", key="x", shape=(4,))
    base = b.copy(x, label="base")
    early = b.view(base, shape=(2,), strides=(2,), label="early")
    b.view(base, shape=(4,), strides=(1,), label="unused")
    y = b.copy(early, label="y")
    b.copy(y, label="z")
    assert lives(b.build())["base"] == (1, 4)


def test_results_take_over_operands_that_die() -> None:
    assert handovers(STEP) == {"scaled": "error", "new": "w", "new.m": "m", "new.v": "v"}
    merged = {i.value.name: i.members for i in intervals(STEP, handovers(STEP))}
    assert merged["error"] == ("error", "scaled")
    assert merged["w"] == ("w", "new")


def test_operands_that_are_still_needed_or_do_not_fit_are_not_taken_over() -> None:
    b = Builder("kept")
    x = b.input(label="x", key="x", shape=(4, 4))
    a = b.map(x, dtypes=("f32",), label="a")  # x is an input
    c = b.map(a, dtypes=("f32",), label="c")  # a is read below
    d = b.map(a, dtypes=("bf16",), label="d")  # two bytes an element over four
    turned = b.view(c, shape=(4, 4), strides=(1, 4), label="turned")
    both = body("p q", "y", "y = p + q")
    e = b.map(c, turned, body=both, dtypes=("f32",), label="e")  # c is read in another order too
    f = b.map(e, d, body=both, dtypes=("f32",), label="f")
    g = b.map(f, body=body("p", "y z", "y = p + 1\nz = p + 2"), dtypes=("f32", "f32"), label="g")
    b.output("y", b.map(*g, body=both, dtypes=("f32",), label="y"))  # an output lies in io
    assert handovers(b.build()) == {"f": "e", "g": "f"}


def test_live_bytes_count_a_handover_once() -> None:
    time = {n.name: i for i, n in enumerate(STEP.nodes)}
    live = live_bytes(STEP)
    tensor, square = 12 * 16 * 4, 16 * 16 * 4
    assert live[time["error"]] == live[time["scaled"]] == tensor
    assert live[time["dw"]] == tensor + square
    assert live[time["new"]] == square
    assert live[0] == 0


def test_costs() -> None:
    nodes = {n.name: n for n in STEP.nodes}
    assert cost(nodes["error"]) == Cost(12 * 16 * (2 * 16 + 1), 4 * (12 * 16 * 3 + 16 * 16))
    assert cost(nodes["rows"]) == cost(nodes["w"]) == Cost(0, 0)


def test_a_table_is_not_read_whole() -> None:
    b = Builder("rows")
    w, ids = b.input(label="w", key="w", shape=(1000, 8)), b.input(label="ids", key="ids", shape=(5,), dtype=DType.i32)
    rows = b.embedding(w, ids)
    assert cost(b.nodes[-1]) == Cost(0, 5 * 4 + 2 * 5 * 8 * 4)
    b.scatter_add(w, ids, rows)
    assert cost(b.nodes[-1]) == Cost(5 * 8, 5 * 4 + 3 * 5 * 8 * 4)


def test_an_operand_that_is_read_twice_is_fetched_once() -> None:
    b = Builder("square")
    x = b.input(label="x", key="x", shape=(8,))
    b.mul(x, x, label="y")
    assert cost(b.nodes[-1]) == Cost(8, 64)
