"""The text form: every graph survives it, and text that is no graph is an error with its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptc.errors import InputError, Span
from gptc.ir.build import Builder
from gptc.ir.graph import Graph
from gptc.ir.text import parse_graph, parse_graphs, parse_type, print_graph, print_graphs
from gptc.ir.types import Dim, DType, TensorType
from tests.ir.planned import by_hand, fused_step
from tests.ir.random_graphs import graphs

STEP = by_hand(fused_step(), error=0, scaled=0, dw=768)


@settings(max_examples=60, deadline=None)
@given(graphs(max_steps=15))
def test_random_graphs_round_trip(graph: Graph) -> None:
    assert parse_graph(print_graph(graph)) == graph


def test_a_planned_graph_round_trips() -> None:
    assert parse_graph(print_graph(STEP)) == STEP


def test_several_programs_share_a_file() -> None:
    assert parse_graphs(print_graphs([STEP, fused_step()])) == (STEP, fused_step())


names = st.text(st.characters(codec="utf-8"), max_size=12)


@given(file=names, origin=names, key=names, value=st.floats(width=32))
def test_any_text_and_number_round_trips(file: str, origin: str, key: str, value: float) -> None:
    b = Builder("hostile")
    with b.place(Span(file, 3, 1, 4), origin):
        b.output(key, b.input(key=key, shape=(Dim(2, "B"), 3)))
        b.constant(value=value)
    text = print_graph(b.build())
    assert print_graph(parse_graph(text)) == text


def test_types_keep_names_and_strides() -> None:
    for text in ("f32[]", "bf16[B=2,T=3]", "i32[4,5]{1,4}"):
        assert str(parse_type(text)) == text
    assert parse_type("f32[2,3]{3,1}") == TensorType.of(DType.f32, (2, 3))


HEADER = "graph g at built\n"
X = '%x: f32[2] = input() {key="x", dtype="f32", shape=[2]}\n'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "expected one graph, found 0"),
        ("%x: f32[] = iota()\n", 1, "a file begins with `graph NAME at STAGE`"),
        ("graph g at nowhere\n", 1, "not a graph header; stages are built,"),
        (HEADER + "hello\n", 2, "expected a node, `return` or `place`"),
        (HEADER + "%x: f32[] = nosuch()\n", 2, "no op is called 'nosuch'"),
        (HEADER + X + X, 3, "%x is defined twice"),
        (HEADER + X + "%y: f32[2] = neg(%z)\n", 3, "%z is not defined before this line"),
        (HEADER + X + "return %z as \"loss\"\n", 3, "%z is not defined before this line"),
        (HEADER + X + "place %z in arena+0\n", 3, "%z is not defined before this line"),
        (HEADER + X + "%y: f32[2] = neg(%x) {speed=3}\n", 3, "neg has no attribute 'speed'"),
        (HEADER + X + "%y: f99[2] = neg(%x)\n", 3, "not a type: 'f99[2]'"),
        (HEADER + X + "%y: f32[-2] = neg(%x)\n", 3, "not a type: 'f32[-2]'"),
        (HEADER + X + "%y: f32[2]{1,2} = neg(%x)\n", 3, "not a type: 'f32[2]{1,2}'"),
        (HEADER + X + '%y: f32[2] = map(%x) {body="(x) { y = = x } -> (y)"}\n', 3, "not a body: "),
        (HEADER + X + '%y: f32[2] = map(%x) {body="(x) { y = neg(x) } -> (z)"}\n', 3, "'z' is not defined"),
        (HEADER + X + "%y: f32[2] = layer_norm(%x) {eps=\"small\"}\n", 3, "eps: expected a number, got 'small'"),
    ],
)  # fmt: skip
def test_mistakes_carry_their_line(text: str, line: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_graph(text, "bad.gir")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.span == Span("bad.gir", line)
    assert message in diagnostic.message


def test_a_misspelt_op_has_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean 'softmax'"):
        parse_graph(HEADER + X + "%y: f32[2] = sotfmax(%x)\n")


patches = st.one_of(st.sampled_from(['"', "{", "}", "%", "=", "-", "9", ",", "\n", "[]", "inf"]), st.text(max_size=3))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_text_is_an_input_error(data: st.DataObject) -> None:
    """Characters cut, replaced or inserted: a graph or an InputError, never another exception."""
    text = print_graph(STEP)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, min(len(text), at + 5)))
        text = text[:at] + data.draw(patches) + text[end:]
    with contextlib.suppress(InputError):
        parse_graphs(text)
