"""Scalar statements as C: numbers, precedence, special values, and random bodies through all three templates."""

from __future__ import annotations

import random
import re
import struct

import numpy as np
import pytest

from gptc.codegen.filters import c_float
from gptc.codegen.render import render_kernel
from gptc.codegen.scalar import Expr, literal, spell
from gptc.codegen.select import select
from gptc.ir.body import SCALARS, Body, Stmt, body
from gptc.ir.graph import Node
from gptc.ir.ops.region import Column, Map, Region, Row
from tests.codegen.native import TARGET, Array, Kernels, check, fill, region

NAMES = {name: Expr(name) for name in "abcd"}


def text(code: str) -> str:
    """The right-hand side of a one-result body, spelled as one expression."""
    values = dict(NAMES)
    for stmt in (parsed := body("a b c d", "y", f"y = {code}")).stmts:
        values[stmt.result] = spell(stmt, values.__getitem__)
    return values[parsed.outputs[0]].text


@pytest.mark.parametrize(
    ("code", "c"),
    [
        ("a - (b - c)", "a - (b - c)"),
        ("(a - b) - c", "a - b - c"),
        ("a * (b * c)", "a * (b * c)"),
        ("(a + b) * c / d", "(a + b) * c / d"),
        ("a / (b / c)", "a / (b / c)"),
        ("-(-a)", "-(-a)"),
        ("a - -b", "a - (-b)"),
        ("a - -1.5", "a - (-1.5f)"),
        ("-(a + b)", "-(a + b)"),
        ("rsqrt(a + b) * c", "1.0f / sqrtf(a + b) * c"),
        ("c * rsqrt(a)", "c * (1.0f / sqrtf(a))"),
        ("where(lt(a, b), a, b) + c", "(a < b ? a : b) + c"),
        ("where(lt(a, b), c, where(eq(a, b), d, 0))", "a < b ? c : a == b ? d : 0.0f"),
        ("where(where(lt(a, b), c, d), a, b)", "(a < b ? c : d) ? a : b"),
        ("maximum(a, 0)", "0.0f > a ? 0.0f : a"),
        ("1e-05 * a", "1e-5f * a"),
    ],
)
def test_infix(code: str, c: str) -> None:
    assert text(code) == c


def test_whole_numbers_beside_indices() -> None:
    row = {"i": Expr("i", kind="int")}.__getitem__
    assert spell(Stmt("y", "lt", ("i", 50257.0)), row).text == "i < 50257"
    assert spell(Stmt("y", "div", ("i", 2.0)), row).text == "(float)i / 2"
    assert spell(Stmt("y", "mul", ("i", 0.5)), row) == Expr("i * 0.5f", 4, "float")
    assert literal(0.5, "int").text == "0.5f"


def test_numbers_keep_their_bits() -> None:
    """10 000 floats of all magnitudes read back from their C text as the same f32."""
    rng = random.Random(1)
    bits = [rng.getrandbits(32) for _ in range(10_000)] + [0, 1, 0x80000000, 0x7F7FFFFF, 0x00800000, 0x3F800000]
    for pattern in bits:
        (value,) = struct.unpack("<f", struct.pack("<I", pattern))
        spelled = c_float(value)
        if np.isfinite(value):
            assert re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?f", spelled), spelled
            assert "." in spelled or "e" in spelled, "`1f` is no number in C"
            assert np.float32(spelled[:-1]).tobytes() == np.float32(value).tobytes()
        else:
            assert spelled == ("NAN" if np.isnan(value) else "INFINITY" if value > 0 else "-INFINITY")
    assert c_float(1e300) == "INFINITY"
    assert c_float(-1e300) == "-INFINITY"


EDGES = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-30, -1e30, 88.0, 89.5, -86.0, -104.0, 0.5, 3e38], np.float32
)
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "lt", "le", "eq")
TERNARY = ("where",)
RANDOM = ("noise", "stochastic_bf16")
UNARY = tuple(n for n in SCALARS if n not in (*BINARY, *TERNARY, *RANDOM, "round_f16"))


def on_edges(name: str) -> Node:
    """One scalar function over all combinations of edge values."""
    inputs = tuple("abc"[: 3 if name in TERNARY else 2 if name in BINARY else 1])
    code = Body(inputs, (Stmt("y", name, inputs),), ("y",))
    return region(Map, code, *[f"f32[{len(EDGES) ** len(inputs)}]"] * len(inputs))


EDGE_NODES = {name: on_edges(name) for name in (*UNARY, *BINARY, *TERNARY)}


def random_body(rng: random.Random, reductions: bool) -> Body:
    """Up to 14 statements whose values stay moderate, each reading earlier ones."""
    known: list[str | float] = ["a", "b", "c", 0.5, -1.25, 2.0]
    stmts: list[Stmt] = []
    for i in range(rng.randint(3, 14)):
        x, y = rng.choice(known[-8:]), rng.choice(known[-8:])
        if isinstance(x, float):
            x = "a"
        options: list[list[Stmt]] = [[Stmt(f"t{i}", fn, (x, y))] for fn in ("add", "sub", "maximum", "minimum")] + [
            [Stmt(f"m{i}", "tanh", (x,)), Stmt(f"t{i}", "mul", (f"m{i}", y))],
            [Stmt(f"m{i}", "abs", (x,)), Stmt(f"n{i}", "add", (f"m{i}", 1.0)), Stmt(f"t{i}", "div", (y, f"n{i}"))],
            [Stmt(f"m{i}", "neg", (x,)), Stmt(f"t{i}", "sub", (y, f"m{i}"))],
            [Stmt(f"m{i}", "col"), Stmt(f"n{i}", "lt", (f"m{i}", 7.0)), Stmt(f"t{i}", "where", (f"n{i}", x, y))],
            [Stmt(f"m{i}", "sigmoid", (x,)), Stmt(f"t{i}", "mul", (y, f"m{i}"))],
        ]
        if reductions:
            options += [[Stmt(f"t{i}", fn, (x,))] for fn in ("row_mean", "row_max")] * 2
        chosen = rng.choice(options)
        stmts += chosen
        known.append(chosen[-1].result)
    outputs = rng.sample([s.result for s in stmts if s.result.startswith("t")], rng.randint(1, 2))
    return Body(("a", "b", "c"), tuple(stmts), tuple(outputs))


def random_regions(count: int) -> list[Node]:
    rng = random.Random(2024)
    nodes = []
    for i in range(count):
        kind: type[Region] = (Map, Row, Row, Column)[i % 4]
        shapes = [rng.choice(["f32[3,4,19]", "f32[19]", "f32[3,4,1]", "f32[4,19]", "f32[]"]) for _ in range(2)]
        nodes.append(region(kind, random_body(rng, kind is Row), "f32[3,4,19]", *shapes))
    return nodes


RANDOM = random_regions(60)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(tmp_path_factory.mktemp("scalar"), [*EDGE_NODES.values(), *RANDOM], flags=["-O2"])


@pytest.mark.parametrize("name", EDGE_NODES)
def test_special_values(kernels: Kernels, name: str) -> None:
    """NaN, infinities, zeros and overflow come out as NumPy has them in float32."""
    node = EDGE_NODES[name]
    grids = np.meshgrid(*[EDGES] * len(node.operands), indexing="ij")
    given = [np.ascontiguousarray(g).reshape(-1) for g in grids]
    result = np.full(given[0].shape, 77, np.float32)
    kernels.call(node, {v.name: x for v, x in zip((*node.operands, *node.results), (*given, result), strict=True)})
    with np.errstate(all="ignore"):
        (expected,) = node.op.eval(*given)
    if name == "gelu":  # documented: NaN below the range, where the exact value is -0
        expected = np.where(given[0] == -np.inf, np.float32(np.nan), expected)
    if name in ("sin", "cos"):  # documented: no digit of an angle is left there
        expected = np.where(np.abs(given[0]) >= 2**31, np.float32(np.nan), expected)
    tiny = np.abs(expected) < 1.8e-38  # gptc_exp and what is made of it give 0 here
    flushed = np.where(tiny & (result == 0), expected, result)
    np.testing.assert_allclose(flushed, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("index", range(len(RANDOM)))
def test_random_bodies(kernels: Kernels, index: int) -> None:
    rng = np.random.default_rng(index)
    node = RANDOM[index]
    given: list[Array] = [fill(v.type, rng) for v in node.operands]
    check(kernels, node, rng, given)


def test_long_bodies_stay_narrow() -> None:
    """However long a chain of operations, no line of a kernel exceeds 120 characters."""
    for node in (*RANDOM, region(Map, body("a", "y", "y = " + " * ".join(["(a + 1.2345678)"] * 40)), "f32[5]")):
        call = select(node, TARGET)
        assert call is not None
        lines = render_kernel(TARGET, call.kernel, []).splitlines()
        assert max(map(len, lines)) <= 120, max(lines, key=len)
