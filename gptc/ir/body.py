"""Scalar programs: what an elementwise op, a row op or a fused region computes for one element.

A `Body` is a straight line of scalar statements.  It is the single definition that the interpreter
evaluates, the fuser concatenates and both targets spell.  Ops write theirs in infix:

    body("x w b", "y mean rstd", '''
        mean = row_mean(x)
        d    = x - mean
        rstd = rsqrt(row_mean(d * d) + eps)
        y    = d * rstd * w + b
    ''', eps=1e-5)

Iteration space.  A body runs over the elements of a tensor `[..., cols]`.  `col()` is the index along
the last axis, `row()` the index along the axis before it (the position t of a `[B,T,C]` tensor), `index()` that
along all axes in row-major order.
`row_sum`, `row_max` and `row_mean` reduce over the last axis and keep it with size 1.  A body without
reductions is elementwise.  Operands broadcast as in NumPy, so a bias is `[C]` and a statistic `[...,1]`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gptc.ir.types import Array, DType

Arg = str | float
"""A statement's argument: the name of an earlier value, or a literal."""


@dataclass(frozen=True)
class Scalar:
    """A scalar function: its NumPy meaning, its cost (one flop per arithmetic op, 10 per transcendental), its arity."""

    numpy: Callable[..., Any]
    flops: int
    arity: int = 1


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def _gelu(x: Array) -> Array:
    """Tanh form of GELU (Hendrycks & Gimpel 2016), written as x * sigmoid(2u): no cancellation for negative x."""
    return x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


def _round(dtype: DType) -> Callable[[Array], Array]:
    """To the nearest value of `dtype` and back; a float64 interpretation does not round."""
    return lambda x: x if x.dtype == np.float64 else x.astype(dtype.numpy).astype(x.dtype)


def _noise(a: Array, b: Array) -> Array:
    """32 random bits of two whole numbers, taken modulo 2^32: a XOR b times an odd number, then a hash of 32 bits.

    The hash is `lowbias32` of Wellons, Prospecting for Hash Functions, 2018 (public domain).
    """
    x, y = (np.asarray(n).astype(np.int64).astype(np.uint32) for n in (a, b))
    with np.errstate(over="ignore"):  # products wrap
        x = x ^ y * np.uint32(0x9E3779B1)
        x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
        x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
        return np.asarray(x ^ x >> np.uint32(16))


def _stochastic_bf16(x: Array, bits: Array) -> Array:
    """One of the two neighbours of x in bf16, the upper one with the probability that makes the mean x.

    16 of the random `bits` are added to the 16 that bf16 has not, and the sum is cut off: for these are evenly spaced
    between neighbours, also among subnormals.  What bf16 holds stays; past the largest comes infinity; NaN stays NaN.
    A float64 interpretation does not round.
    """
    if x.dtype == np.float64:
        return x
    word = np.ascontiguousarray(x).view(np.uint32)
    moved = word + (np.asarray(bits).astype(np.uint32) & np.uint32(0xFFFF))
    quiet = word | np.uint32(0x400000)
    return np.asarray(np.where(np.isnan(x), quiet, moved) & np.uint32(0xFFFF0000)).view(np.float32)


SCALARS: dict[str, Scalar] = {
    "copy": Scalar(np.asarray, 0),
    "add": Scalar(np.add, 1, 2),
    "sub": Scalar(np.subtract, 1, 2),
    "mul": Scalar(np.multiply, 1, 2),
    "div": Scalar(np.divide, 1, 2),
    "neg": Scalar(np.negative, 1),
    "abs": Scalar(np.abs, 1),
    "sign": Scalar(np.sign, 1),
    "maximum": Scalar(np.maximum, 1, 2),
    "minimum": Scalar(np.minimum, 1, 2),
    "exp": Scalar(np.exp, 10),
    "log": Scalar(np.log, 10),
    "tanh": Scalar(np.tanh, 10),
    "sin": Scalar(np.sin, 10),
    "cos": Scalar(np.cos, 10),
    "sqrt": Scalar(np.sqrt, 4),
    "rsqrt": Scalar(lambda x: 1 / np.sqrt(x), 5),
    "sigmoid": Scalar(_sigmoid, 12),
    "gelu": Scalar(_gelu, 18),
    "lt": Scalar(np.less, 1, 2),
    "le": Scalar(np.less_equal, 1, 2),
    "eq": Scalar(np.equal, 1, 2),
    "where": Scalar(np.where, 1, 3),
    "round_bf16": Scalar(_round(DType.bf16), 2),
    "round_f16": Scalar(_round(DType.f16), 2),
    "noise": Scalar(_noise, 10, 2),
    "stochastic_bf16": Scalar(_stochastic_bf16, 4, 2),
}

REDUCTIONS: dict[str, Callable[..., Any]] = {"row_sum": np.sum, "row_max": np.max, "row_mean": np.mean}
INDICES = ("row", "col", "index")
ARITY = {name: f.arity for name, f in SCALARS.items()} | dict.fromkeys(REDUCTIONS, 1) | dict.fromkeys(INDICES, 0)
"""Arguments of every function that a statement may call."""


@dataclass(frozen=True)
class Stmt:
    """`result = fn(args)`."""

    result: str
    fn: str
    args: tuple[Arg, ...] = ()

    def __str__(self) -> str:
        return f"{self.result} = {self.fn}({', '.join(a if isinstance(a, str) else repr(a) for a in self.args)})"


@dataclass(frozen=True)
class Body:
    """Inputs, statements in order, outputs.  Every name is assigned once."""

    inputs: tuple[str, ...]
    stmts: tuple[Stmt, ...]
    outputs: tuple[str, ...]

    @property
    def has_reductions(self) -> bool:
        return any(s.fn in REDUCTIONS for s in self.stmts)

    @property
    def flops(self) -> int:
        """Flops per element of the iteration space."""
        return sum(SCALARS[s.fn].flops if s.fn in SCALARS else 1 for s in self.stmts if s.fn not in INDICES)

    def rename(self, names: Mapping[str, str]) -> Body:
        """The same body under other names; names that are not mentioned stay."""

        def new(arg: Arg) -> Arg:
            return names.get(arg, arg) if isinstance(arg, str) else arg

        return Body(
            tuple(names.get(n, n) for n in self.inputs),
            tuple(Stmt(names.get(s.result, s.result), s.fn, tuple(map(new, s.args))) for s in self.stmts),
            tuple(names.get(n, n) for n in self.outputs),
        )

    def __str__(self) -> str:
        lines = "; ".join(map(str, self.stmts))
        return f"({' '.join(self.inputs)}) {{ {lines} }} -> ({' '.join(self.outputs)})"

    @classmethod
    def parse(cls, text: str) -> Body:
        """Inverse of `str`; ValueError when the text is not a body."""
        match = re.fullmatch(r"\(([^)]*)\) \{ (.*) \} -> \(([^)]*)\)", text.strip())
        if match is None:
            raise ValueError(f"not a body: {text!r}")
        inputs, lines, outputs = match.groups()
        return body(inputs, outputs, lines.replace("; ", "\n"))


@cache
def body(inputs: str, outputs: str, text: str, **constants: float) -> Body:
    """Parse infix text into a `Body`; names in `constants` become literals."""
    try:
        lines = ast.parse("\n".join(line.strip() for line in text.strip().splitlines())).body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a body: {text!r}") from error
    literals = {name: float(value) for name, value in constants.items()}
    flat = _Flatten(literals, inputs.split(), taken=set(re.findall(r"[A-Za-z_]\w*", text)))
    for line in lines:
        if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
            raise ValueError(f"not an assignment: {ast.unparse(line)}")
        flat.assign(line.targets[0].id, line.value)
    for name in outputs.split():
        flat.need(name)
    return Body(tuple(inputs.split()), tuple(flat.stmts), tuple(outputs.split()))


_BINARY: dict[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}


class _Flatten:
    """Turns nested expressions into statements, naming the intermediate values t0, t1, ..."""

    def __init__(self, constants: Mapping[str, float], inputs: Sequence[str], taken: set[str]) -> None:
        self.constants = constants
        self.known = set(inputs)
        self.taken = taken | self.known
        self.stmts: list[Stmt] = []

    def need(self, name: str) -> None:
        if name not in self.known:
            raise ValueError(f"{name!r} is not defined")

    def assign(self, name: str, node: ast.expr) -> None:
        fn, args = self.call(node)
        if fn not in ARITY:
            raise ValueError(f"unknown scalar function {fn!r}")
        if len(args) != ARITY[fn]:
            raise ValueError(f"{fn} takes {ARITY[fn]} arguments, got {len(args)}")
        operands = tuple(self.arg(a) for a in args)
        if name in self.known:
            raise ValueError(f"{name!r} is assigned twice")
        self.known.add(name)
        self.stmts.append(Stmt(name, fn, operands))

    def call(self, node: ast.expr) -> tuple[str, list[ast.expr]]:
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return _BINARY[type(node.op)], [node.left, node.right]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return "neg", [node.operand]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return node.func.id, list(node.args)
        raise ValueError(f"a statement must compute something: {ast.unparse(node)}")

    def arg(self, node: ast.expr) -> Arg:
        literal = _literal(node)
        if literal is not None:
            return literal
        if isinstance(node, ast.Name) and node.id in self.constants:
            return self.constants[node.id]
        if isinstance(node, ast.Name):
            self.need(node.id)
            return node.id
        name = self.fresh()
        self.assign(name, node)
        return name

    def fresh(self) -> str:
        index = 0
        while f"t{index}" in self.taken:
            index += 1
        self.taken.add(f"t{index}")
        return f"t{index}"


def _literal(node: ast.expr) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    return None


def evaluate(code: Body, inputs: Sequence[Array], shape: Sequence[int]) -> tuple[Array, ...]:
    """Run a body over an iteration space of `shape`; reductions keep the reduced axis with size 1.

    Results have the shape that broadcasting gives them, which may be smaller than `shape`; the caller
    broadcasts or reshapes to the type it declared.
    """
    space = tuple(int(d) for d in shape)
    floats = [a.dtype for a in inputs if a.dtype.kind not in "iu"]
    work = np.result_type(np.float32, *floats) if floats else np.dtype(np.float32)
    values: dict[str, Array] = {
        name: a if a.dtype.kind in "iu" else a.astype(work, copy=False)
        for name, a in zip(code.inputs, inputs, strict=True)
    }
    with np.errstate(all="ignore"):  # infinities and NaNs flow on, as they do in emitted code
        for stmt in code.stmts:
            args = [values[a] if isinstance(a, str) else np.asarray(a, dtype=work) for a in stmt.args]
            values[stmt.result] = _apply(stmt.fn, args, space, work)
    return tuple(values[name] for name in code.outputs)


def positions(fn: str, shape: Sequence[int]) -> Array:
    """What one of `INDICES` gives over an iteration space."""
    if fn == "index":
        return np.arange(math.prod(shape), dtype=np.int64).reshape(tuple(shape))
    return np.arange(shape[-1], dtype=np.int64) if fn == "col" else np.arange(shape[-2], dtype=np.int64)[:, None]


def _apply(fn: str, args: list[Array], shape: tuple[int, ...], work: np.dtype[Any]) -> Array:
    if fn in INDICES:
        return positions(fn, shape)
    if fn in REDUCTIONS:
        return np.asarray(REDUCTIONS[fn](np.broadcast_to(args[0], shape), axis=-1, keepdims=True))
    result = np.asarray(SCALARS[fn].numpy(*args))
    return result.astype(work, copy=False) if result.dtype.kind == "f" else result
