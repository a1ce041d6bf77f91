"""Expressions of the model language.

Grammar, spelled as in Python and parsed with Python's own `ast`; nothing is ever evaluated as Python:

    expr   := call | name | number | expr ("+" | "-" | "*" | "/" | "**") expr | "-" expr | "(" expr ")"
    call   := word "(" [expr {"," expr}] {"," word "=" expr} ")"
    name   := word {"." word}
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from gptc.errors import InputError, Span
from gptc.model.source import quoted
from gptc.model.tree import Scalar

MAX_LENGTH = 2000
MAX_DEPTH = 50


@dataclass(frozen=True)
class Number:
    value: int | float | bool
    span: Span


@dataclass(frozen=True)
class Name:
    parts: tuple[str, ...]
    span: Span

    def __str__(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True)
class Call:
    function: str
    args: tuple[Expr, ...]
    keywords: tuple[tuple[str, Expr], ...]
    span: Span
    """The whole call."""
    word: Span
    """The name of the function."""


@dataclass(frozen=True)
class Binary:
    op: str
    left: Expr
    right: Expr
    span: Span


@dataclass(frozen=True)
class Negate:
    operand: Expr
    span: Span


Expr = Number | Name | Call | Binary | Negate


def parse_expression(scalar: Scalar) -> Expr:
    """Parse the text of a scalar; InputError that points into it."""
    text = scalar.text
    if len(text) > MAX_LENGTH:
        raise InputError.of(f"an expression has at most {MAX_LENGTH} characters, this one has {len(text)}", scalar.span)
    if bad := re.search(r"[^ -~\n]", text):
        raise InputError.of(f"unexpected character {bad[0]!r}", scalar.at(bad.start(), 1))
    flat = text.replace("\n", " ")
    lead = len(flat) - len(flat.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(flat.lstrip(), mode="eval")
    except SyntaxError as error:
        offset = lead + max(0, (error.offset or 1) - 1)
        cut = "never closed" in (error.msg or "") and scalar.source.text[scalar.end : scalar.end + 1] == ","
        hint = "inside { } and [ ], quote what has a comma" if cut else None
        raise InputError.of(_reason(text, error), scalar.at(min(offset, max(0, len(text) - 1)), 1), hint) from None
    except (ValueError, RecursionError, MemoryError):
        raise InputError.of("this expression cannot be read", scalar.span) from None
    return _Converter(scalar, lead).convert(tree.body, 0)


def _reason(text: str, error: SyntaxError) -> str:
    if not text.strip():
        return "an expression is missing"
    known = {"was never closed", "unmatched", "does not match", "too many nested", "leading zeros"}
    message = error.msg or ""
    return message if any(k in message for k in known) else f"cannot read this expression: {quoted(text)}"


_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}


class _Converter:
    """Python's tree to ours, refusing everything outside the grammar."""

    def __init__(self, scalar: Scalar, lead: int) -> None:
        self.scalar = scalar
        self.lead = lead

    def span(self, node: ast.expr) -> Span:
        start, end = node.col_offset, node.end_col_offset or node.col_offset + 1
        return self.scalar.at(self.lead + start, end - start)

    def convert(self, node: ast.expr, depth: int) -> Expr:
        if depth > MAX_DEPTH:
            raise InputError.of(f"expressions nest at most {MAX_DEPTH} levels", self.span(node))
        match node:
            case ast.Constant(value=int() | float() as value):
                return self.number(node, value)
            case ast.Name() | ast.Attribute():
                return Name(tuple(self.parts(node, depth)), self.span(node))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Negate(self.convert(operand, depth + 1), self.span(node))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.convert(operand, depth + 1)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
                sides = self.convert(left, depth + 1), self.convert(right, depth + 1)
                return Binary(_OPERATORS[type(op)], *sides, self.span(node))
            case ast.Call(func=ast.Name() as func):
                return self.call(node, func, depth)
        hint = "expressions are calls, names, numbers and + - * / **"
        raise InputError.of(f"{_kind(node)} cannot be used here", self.span(node), hint)

    def number(self, node: ast.Constant, value: int | float) -> Number:
        if abs(value) > 2**63 or math.isnan(value):
            raise InputError.of("this number is too large", self.span(node))
        return Number(value, self.span(node))

    def parts(self, node: ast.expr, depth: int) -> Iterator[str]:
        if isinstance(node, ast.Attribute):
            if depth > MAX_DEPTH:
                raise InputError.of("this name has too many parts", self.span(node))
            yield from self.parts(node.value, depth + 1)
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        else:
            raise InputError.of("only names have parts", self.span(node))

    def call(self, node: ast.Call, func: ast.Name, depth: int) -> Call:
        for part in node.args:
            if isinstance(part, ast.Starred):
                raise InputError.of("`*` cannot be used before an argument", self.span(part))
        for keyword in node.keywords:
            if keyword.arg is None:
                raise InputError.of("`**` cannot be used before an argument", self.span(keyword.value))
        args = tuple(self.convert(a, depth + 1) for a in node.args)
        keywords = tuple((str(k.arg), self.convert(k.value, depth + 1)) for k in node.keywords)
        return Call(func.id, args, keywords, self.span(node), self.span(func))


_KINDS: dict[type[ast.expr], str] = {
    ast.Constant: "text",
    ast.Subscript: "indexing with [ ]",
    ast.List: "a list",
    ast.Tuple: "a comma",
    ast.Lambda: "lambda",
    ast.Compare: "a comparison",
    ast.BoolOp: "`and` or `or`",
    ast.IfExp: "`if`",
    ast.Dict: "{ }",
    ast.Set: "{ }",
    ast.Call: "this call",
    ast.JoinedStr: "text",
}


def _kind(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        return "this operator"
    return _KINDS.get(type(node), "this")


def names(expr: Expr) -> Iterator[Name]:
    """Every name that an expression reads."""
    match expr:
        case Name():
            yield expr
        case Call():
            for arg in (*expr.args, *(value for _, value in expr.keywords)):
                yield from names(arg)
        case Binary():
            yield from names(expr.left)
            yield from names(expr.right)
        case Negate():
            yield from names(expr.operand)
