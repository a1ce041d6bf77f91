"""Scalar statements as C: what one element of a region computes, in infix, as one would write it by hand.

A value used once is spelled where it is used; a value used more often becomes a named constant.  The order of
the operations, and so the rounding, is that of the body; only fused multiply-add may contract it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gptc.codegen.filters import c_float
from gptc.errors import InternalError
from gptc.ir.body import Stmt

# Levels of C's operators that occur here; a higher one binds tighter.
TERNARY, EQUALITY, RELATION, SUM, PRODUCT, UNARY, ATOM = range(7)

INLINE_LIMIT = 60
"""Characters of a value that is still spelled inside another."""
LINE_LIMIT = 72
"""Characters of the value of a statement."""


@dataclass(frozen=True)
class Expr:
    """C text, how tightly its outermost operator binds, and whether it is a `float`, `int`, `bool` or random `bits`."""

    text: str
    level: int = ATOM
    kind: str = "float"
    unrounded: str = ""
    """Of a number rounded to bf16 or f16: the text of what it was before, for a store that rounds it by itself."""

    def at(self, level: int) -> str:
        """The text, in parentheses unless it binds at least as tightly as `level`."""
        return self.text if self.level >= level else f"({self.text})"


CTYPES = {"float": "float", "int": "int64_t", "bool": "int", "bits": "uint32_t"}
"""Whole numbers are as wide as loop variables: a loop whose index is narrowed vectorises badly."""


@dataclass(frozen=True)
class Dialect:
    """What a target wants spelled otherwise."""

    integer: str = CTYPES["int"]
    """The type of whole numbers."""
    eager: bool = False
    """Whether both sides of a condition are computed before it: threads that part cost more than arithmetic."""


INFIX = {
    "add": ("+", SUM),
    "sub": ("-", SUM),
    "mul": ("*", PRODUCT),
    "div": ("/", PRODUCT),
    "lt": ("<", RELATION),
    "le": ("<=", RELATION),
    "eq": ("==", EQUALITY),
}
CALLS = {
    "exp": "gptc_exp",
    "tanh": "gptc_tanh",
    "sin": "gptc_sin",
    "cos": "gptc_cos",
    "sigmoid": "gptc_sigmoid",
    "gelu": "gptc_gelu",
    "log": "logf",
    "sqrt": "sqrtf",
    "abs": "fabsf",
    "round_bf16": "gptc_round_bf16",
    "round_f16": "gptc_round_f16",
}
COMPARISONS = ("lt", "le", "eq")
READ_TWICE = ("maximum", "minimum", "sign", "row_max")
"""Functions spelled as a condition that reads its arguments more than once."""


def literal(value: float, beside: str = "float") -> Expr:
    """A number as it is written beside an argument of kind `beside`: whole numbers stay whole beside integers."""
    whole = beside == "int" and math.isfinite(value) and value == int(value) and abs(value) < 2**31
    text = str(int(value)) if whole else c_float(value)
    return Expr(text, UNARY if text.startswith("-") else ATOM, "int" if whole else "float")


def spell(stmt: Stmt, argument: Callable[[str], Expr]) -> Expr:
    """One statement as an expression over its arguments."""
    names = [a for a in stmt.args if isinstance(a, str)]
    known = {n: argument(n) for n in names}
    beside = "int" if known and all(e.kind == "int" for e in known.values()) else "float"
    args = [known[a] if isinstance(a, str) else literal(a, beside) for a in stmt.args]
    if stmt.fn == "copy":
        return args[0]
    if stmt.fn in INFIX:
        return _infix(stmt.fn, args[0], args[1])
    if stmt.fn in CALLS:
        return Expr(f"{CALLS[stmt.fn]}({args[0].text})", unrounded=args[0].text if stmt.fn.startswith("round") else "")
    if stmt.fn in _SPECIAL:
        return _SPECIAL[stmt.fn](*args)
    raise InternalError.of(f"scalar function {stmt.fn!r} has no spelling in C")


def _infix(fn: str, a: Expr, b: Expr) -> Expr:
    operator, level = INFIX[fn]
    kind = "bool" if fn in COMPARISONS else "int" if a.kind == b.kind == "int" else "float"
    if fn == "div" and kind == "int":
        a, kind = Expr(f"(float){a.at(UNARY)}", UNARY), "float"
    inner = SUM if fn in COMPARISONS else level
    right = b.at(level + 1)
    if right.startswith("-"):
        right = f"({right})"
    return Expr(f"{a.at(inner)} {operator} {right}", level, kind)


def _neg(x: Expr) -> Expr:
    inner = x.at(UNARY)
    return Expr(f"-({inner})" if inner.startswith("-") else f"-{inner}", UNARY, x.kind)


def _rsqrt(x: Expr) -> Expr:
    return Expr(f"1.0f / sqrtf({x.text})", PRODUCT)


def _where(condition: Expr, yes: Expr, no: Expr) -> Expr:
    kind = "int" if yes.kind == no.kind == "int" else "float"
    return Expr(f"{condition.at(EQUALITY)} ? {yes.at(EQUALITY)} : {no.at(TERNARY)}", TERNARY, kind)


def _extreme(operator: str) -> Callable[[Expr, Expr], Expr]:
    """maximum and minimum.  A comparison with NaN is false, so the test is put such that NaN gets through."""

    def spelled(a: Expr, b: Expr) -> Expr:
        if _is_number(a):
            a, b = b, a
        test = f"{b.at(SUM)} {operator} {a.at(SUM)}"
        if not _is_number(b) and b.kind == "float":
            test += f" || {b.at(SUM)} != {b.at(SUM)}"
        return Expr(f"{test} ? {b.text} : {a.text}", TERNARY, "int" if a.kind == b.kind == "int" else "float")

    return spelled


def _is_number(x: Expr) -> bool:
    return x.text.lstrip("-")[0].isdigit() or x.text.endswith("INFINITY")


def _sign(x: Expr) -> Expr:
    return Expr(f"{x.at(SUM)} > 0 ? 1.0f : {x.at(SUM)} < 0 ? -1.0f : {x.text}", TERNARY)


def _noise(a: Expr, b: Expr) -> Expr:
    """Of floats that are whole numbers too: the number of a step."""
    args = [f"(uint32_t)(int64_t){x.at(UNARY)}" if x.kind == "float" else x.text for x in (a, b)]
    return Expr(f"gptc_noise({', '.join(args)})", kind="bits")


def _stochastic_bf16(x: Expr, bits: Expr) -> Expr:
    return Expr(f"gptc_stochastic_bf16({x.text}, {bits.text})")


_SPECIAL: dict[str, Callable[..., Expr]] = {
    "neg": _neg,
    "rsqrt": _rsqrt,
    "where": _where,
    "maximum": _extreme(">"),
    "minimum": _extreme("<"),
    "sign": _sign,
    "noise": _noise,
    "stochastic_bf16": _stochastic_bf16,
}


def count_uses(stmts: Iterable[Stmt], stored: Iterable[str]) -> Counter[str]:
    """How often each name is read when `stmts` are spelled and `stored` are stored."""
    uses = Counter(stored)
    for stmt in stmts:
        weight = 2 if stmt.fn in READ_TWICE else 1
        for arg in stmt.args:
            if isinstance(arg, str):
                uses[arg] += weight
    return uses


class Block:
    """The constants of one C block, in order, and the expressions of the values that live in it."""

    def __init__(
        self,
        outer: Mapping[str, Expr],
        stmts: Sequence[Stmt],
        stored: Sequence[str],
        name: Callable[[str], str],
        dialect: Dialect = Dialect(),
    ) -> None:
        """`outer`: values of the enclosing blocks.  `stmts`, `stored`: what reads values of this block.

        `name` gives a C name for a value of the body.
        """
        self.ctypes = CTYPES | {"int": dialect.integer}
        self.eager = dialect.eager
        self.values = dict(outer)
        self.uses = count_uses(stmts, stored)
        self.stored = stored
        self.name = name
        self.lines: list[str] = []

    def define(self, value: str, expr: Expr, named: bool = False) -> None:
        """Make `value` known: as it stands if it is short and read once, else (or if `named`) as a constant."""
        self.values[value] = expr
        long = len(expr.text) > INLINE_LIMIT and value not in self.stored
        if named or long or self.uses[value] > 1:
            self.name_now(value)

    def name_now(self, value: str) -> None:
        """Give a value that is spelled as an expression a constant of its own."""
        expr = self.values[value]
        if not expr.text.isidentifier():
            local = self.name(value)
            self.lines.append(f"const {self.ctypes[expr.kind]} {local} = {expr.text};")
            self.values[value] = Expr(local, ATOM, expr.kind)

    def add(self, stmt: Stmt, named: bool = False) -> None:
        """Spell one statement; where it gets too long, its longest argument becomes a constant first."""
        if self.eager and stmt.fn == "where":
            for side in stmt.args[1:]:
                if isinstance(side, str) and "(" in self.values[side].text:
                    self.name_now(side)
        expr = spell(stmt, self.values.__getitem__)
        while len(expr.text) > LINE_LIMIT:
            longest = max((a for a in stmt.args if isinstance(a, str)), key=lambda a: len(self.values[a].text))
            if self.values[longest].text.isidentifier():
                break
            self.name_now(longest)
            expr = spell(stmt, self.values.__getitem__)
        self.define(stmt.result, expr, named)
