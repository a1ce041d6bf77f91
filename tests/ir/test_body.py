"""Laws of scalar bodies: text, renaming, evaluation."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptc.ir.body import ARITY, Body, Stmt, body, evaluate
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.elementwise import Elementwise
from gptc.ir.ops.region import Region
from gptc.ir.ops.row import RowOp
from tests.ir.samples import OPS, samples_of

BODIES = [
    pytest.param(op.body if isinstance(op, Region) else op.body(), id=f"{name}-{number}")
    for name in OPS
    if issubclass(REGISTRY[name], (Elementwise, RowOp, Region))
    for number, (op, _) in enumerate(samples_of(name))
    if isinstance(op, (Elementwise, RowOp, Region))
]


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """Any straight line of any functions."""
    inputs = ("a", "b")[: draw(st.integers(0, 2))]
    names, stmts = list(inputs), []
    literals = st.floats(width=32)
    for number in range(draw(st.integers(1, 6))):
        fn = draw(st.sampled_from(sorted(ARITY)))
        arg = st.one_of(st.sampled_from(names), literals) if names else literals
        args = tuple(draw(arg) for _ in range(ARITY[fn]))
        stmts.append(Stmt(f"v{number}", fn, args))
        names.append(f"v{number}")
    return Body(inputs, tuple(stmts), tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))))


@given(bodies())
def test_text_round_trips(code: Body) -> None:
    assert str(Body.parse(str(code))) == str(code)


@pytest.mark.parametrize("code", BODIES)
def test_bodies_of_ops_are_straight_lines(code: Body) -> None:
    known = set(code.inputs)
    for stmt in code.stmts:
        assert len(stmt.args) == ARITY[stmt.fn]
        assert {a for a in stmt.args if isinstance(a, str)} <= known
        assert stmt.result not in known, "assigned twice"
        known.add(stmt.result)
    assert set(code.outputs) <= known
    assert Body.parse(str(code)) == code
    back = {f"_{n}": n for n in known}
    assert code.rename({n: f"_{n}" for n in known}).rename(back) == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y = nosuch(x)", "unknown scalar function 'nosuch'"),
        ("y = x", "a statement must compute something: x"),
        ("x + 1", "not an assignment: x + 1"),
        ("y = x ** 2", "a statement must compute something: x ** 2"),
        ("y = x.real", "a statement must compute something: x.real"),
        ("y = = x", "not a body: 'y = = x'"),
        ("y = " + "-" * 9999 + "x", "not a body: "),
        ("y = exp(z)", "'z' is not defined"),
        ("z = exp(x)", "'y' is not defined"),
        ("y = exp(x)\ny = exp(y)", "'y' is assigned twice"),
        ("y = where(x, 1)", "where takes 3 arguments, got 2"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        body("x", "y", text)


def test_infix_flattens_in_order_of_evaluation() -> None:
    code = body("x t0", "y", "y = (x + c) * -t0 / 2", c=0.5)
    assert str(code) == "(x t0) { t2 = add(x, 0.5); t3 = neg(t0); t1 = mul(t2, t3); y = div(t1, 2.0) } -> (y)"


def test_indices_and_reductions_follow_the_last_axes() -> None:
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    code = body("x", "r c s m mean", "r = row()\nc = col()\ns = row_sum(x)\nm = row_max(x)\nmean = row_mean(x)")
    r, c, s, m, mean = evaluate(code, [x], x.shape)
    np.testing.assert_array_equal(np.broadcast_to(r, x.shape)[1], [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(np.broadcast_to(c, x.shape)[1], [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(s, x.sum(-1, keepdims=True))
    np.testing.assert_array_equal(m, x.max(-1, keepdims=True))
    np.testing.assert_array_equal(mean, x.mean(-1, keepdims=True))


def test_a_number_a_row_counts_once_for_every_column() -> None:
    """The sum runs over the iteration space, not over what the operand happens to store."""
    (s,) = evaluate(body("x", "s", "s = row_sum(x)"), [np.ones((2, 1), np.float32)], (2, 5))
    np.testing.assert_array_equal(s, [[5], [5]])


def test_values_are_float32_unless_an_operand_is_float64() -> None:
    code = body("x", "y", "y = x + 1e-9")
    assert evaluate(code, [np.ones(1, np.float32)], (1,))[0] == 1
    assert evaluate(code, [np.ones(1, np.float64)], (1,))[0] == 1 + 1e-9
    assert evaluate(code, [np.ones(1, np.float16)], (1,))[0].dtype == np.float32


def test_integers_stay_exact() -> None:
    """16777217 is no float32: an index must not go through one."""
    big = np.asarray([16777217], np.int32)
    (y,) = evaluate(body("i", "y", "y = where(eq(i, i), 1, 0)"), [big], (1,))
    assert y == 1
    (same,) = evaluate(body("i j", "y", "y = where(eq(i, j), 1, 0)"), [big, big - 1], (1,))
    assert same == 0


@pytest.mark.parametrize(("fn", "x", "y"), [("sigmoid", -200.0, 0.0), ("sigmoid", 200.0, 1.0), ("gelu", -30.0, 0.0)])
def test_activations_do_not_overflow(fn: str, x: float, y: float) -> None:
    (found,) = evaluate(body("x", "y", f"y = {fn}(x)"), [np.float32([x])], (1,))
    assert found == pytest.approx(y, abs=1e-30)


def test_rounding_is_that_of_the_storage_type() -> None:
    x = np.float32([math.pi, 1e-40, 3.4e38])
    (bf16,) = evaluate(body("x", "y", "y = round_bf16(x)"), [x], (3,))
    np.testing.assert_array_equal(bf16, [3.140625, 2.0**-133, np.inf])
