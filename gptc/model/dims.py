"""Named sizes and the arithmetic over them: exact integers for dims and shapes, floats for init specs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from gptc.errors import InputError, Span, did_you_mean
from gptc.model.expression import Binary, Call, Expr, Name, Negate, Number, names, parse_expression
from gptc.model.source import Consequence, Report, quoted
from gptc.model.tree import Scalar

MAX_SIZE = 2**31 - 1
"""Largest size of an axis."""
MAX_MAGNITUDE = 2**63

Real = int | float
NOTHING: Mapping[str, int] = {}


class Dims(dict[str, int]):
    """Sizes by name."""

    broken: frozenset[str] = frozenset()
    """Names whose definitions have mistakes."""


def evaluate_dims(
    entries: Mapping[str, Scalar],
    report: Report,
    bound: Mapping[str, int] = NOTHING,
    lost: frozenset[str] = frozenset(),
) -> Dims:
    """Sizes of all dims, each of which may use the others in any order.  Mistakes are reported.

    `bound` replaces what the file says, as a shorter sequence replaces T.  `lost` names have mistakes already.
    """
    parsed: dict[str, Expr] = {}
    for name, scalar in entries.items():
        with report.collect():
            known = bound.get(name)
            parsed[name] = parse_expression(scalar) if known is None else Number(known, scalar.span)
    order = TopologicalSorter({name: sorted({str(n) for n in names(e)} & parsed.keys()) for name, e in parsed.items()})
    done: list[str] = []
    try:
        done = list(order.static_order())
    except CycleError as error:
        cycle = [str(name) for name in reversed(error.args[1])]
        report.error(f"dim {cycle[0]!r} is defined by itself: {' -> '.join(cycle)}", parsed[cycle[0]].span)
    found = Dims()
    found.broken = lost | entries.keys()
    for name in done:
        with report.collect():
            found[name] = size(parsed[name], found)
    sizes = Dims((name, found[name]) for name in entries if name in found)
    sizes.broken = found.broken - sizes.keys()
    return sizes


def size(expr: Expr, dims: Mapping[str, int]) -> int:
    """A positive whole number of at most 2^31 - 1; InputError otherwise."""
    value = arithmetic(expr, dims, exact=True)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError.of(f"a size is a whole number, this is {value}", expr.span)
    if not 1 <= value <= MAX_SIZE:
        raise InputError.of(f"a size is between 1 and {MAX_SIZE:,}, this is {value:,}", expr.span)
    return value


def arithmetic(expr: Expr, dims: Mapping[str, int], exact: bool = False) -> Real:
    """The value of an expression over dims and numbers.  `exact`: every division must leave no remainder."""
    match expr:
        case Number():
            return expr.value
        case Name():
            if isinstance(dims, Dims) and str(expr) in dims.broken - dims.keys():
                raise Consequence
            if str(expr) not in dims:
                raise InputError.of(f"unknown dim {quoted(str(expr))}", expr.span, did_you_mean(str(expr), dims))
            return dims[str(expr)]
        case Negate():
            return -arithmetic(expr.operand, dims, exact)
        case Binary():
            left, right = arithmetic(expr.left, dims, exact), arithmetic(expr.right, dims, exact)
            return combine(expr.op, left, right, expr.span, exact)
        case Call(function="sqrt", args=(arg,), keywords=()) if not exact:
            value = arithmetic(arg, dims)
            if value < 0:
                raise InputError.of(f"the square root of {value}", expr.span)
            return math.sqrt(value)
        case Call():
            allowed = "only + - * / ** work on sizes" if exact else "numbers know only sqrt(x)"
            raise InputError.of(f"{quoted(expr.function)} cannot be called here", expr.word, allowed)


def combine(op: str, left: Real, right: Real, span: Span, exact: bool = False) -> Real:
    """`left op right` within the bounds of the language."""
    if op == "/" and right == 0:
        raise InputError.of(f"division by zero: {left} / {right}", span)
    if op == "/" and isinstance(left, int) and isinstance(right, int):
        quotient, rest = divmod(left, right)
        if not rest:
            return quotient
        if exact:
            raise InputError.of(f"{left} / {right} is not a whole number: it leaves {rest}", span)
    value = _power(left, right, span) if op == "**" else _OPERATIONS[op](left, right)
    if not abs(value) <= MAX_MAGNITUDE:
        raise InputError.of("this number is too large", span)
    return value


_OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def _power(base: Real, exponent: Real, span: Span) -> Real:
    if abs(exponent) > 64 or (base < 0 and not isinstance(exponent, int)) or (base == 0 and exponent < 0):
        raise InputError.of(f"{base} ** {exponent} is not a number this language can use", span)
    try:
        return base**exponent
    except OverflowError:
        raise InputError.of("this number is too large", span) from None
