"""Applying functions and operators: arguments are checked against the function's signature before any node is built."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

from gptc.errors import GptcError, InputError, Span, did_you_mean
from gptc.ir.graph import Value
from gptc.ir.op import ShapeError
from gptc.model.dims import combine
from gptc.model.expression import Binary, Call, Expr, Name, Negate
from gptc.model.functions import FUNCTIONS, Function, ModelBuilder, Tensors
from gptc.model.source import quoted

Operand = Value | int | float
"""What an expression stands for: a tensor or a number."""

_OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "neg": "neg"}


def apply_operator(b: ModelBuilder, op: str, operands: tuple[Operand, ...], expr: Binary | Negate) -> Operand:
    """`left op right`: arithmetic on numbers, a node as soon as a tensor takes part."""
    if any(isinstance(x, bool) for x in operands):
        raise InputError.of("True and False are not numbers", expr.span)
    match operands:
        case (int() | float() as number,):
            return -number
        case (int() | float() as left, int() | float() as right):
            return combine(op, left, right, expr.span)
    if op == "**":
        raise InputError.of("** works on numbers, not on tensors", expr.span, "write x * x for a square")
    values = [x if isinstance(x, Value) else b.scalar(float(x)) for x in operands]
    parts = (expr.left, expr.right) if isinstance(expr, Binary) else (expr.operand,)
    try:
        made: Value = getattr(b, _OPERATORS[op])(*values)
    except GptcError as error:
        raise _explained(error, tuple(zip(parts, operands, strict=True))) from error
    return made


def call_function(
    b: ModelBuilder, call: Call, args: tuple[Operand, ...], keywords: Mapping[str, Operand]
) -> Value | tuple[Value, ...]:
    """Call a function of the table."""
    function = FUNCTIONS.get(call.function)
    if function is None:
        hint = did_you_mean(call.function[:64], FUNCTIONS) or f"functions are {', '.join(sorted(FUNCTIONS))}"
        raise InputError.of(f"unknown function {quoted(call.function)}", call.word, hint)
    _check_count(function, call)
    values = []
    for index, arg in enumerate(args):
        parameter = function.positional[min(index, len(function.positional) - 1)]
        values.append(_argument(function, parameter, arg, call.args[index].span))
    named = {}
    for (key, expr), value in zip(call.keywords, keywords.values(), strict=True):
        named[key] = _argument(function, function.keywords[key], value, expr.span)
    try:
        made: Tensors = function.build(b, *values, **named)
    except ShapeError as error:
        raise _explained(InputError.of(f"{function.name}: {error}", call.span), zip_parts(call, args)) from error
    except GptcError as error:
        raise _explained(error, zip_parts(call, args)) from error
    return made


Parts = tuple[tuple[Expr, Operand], ...]


def zip_parts(call: Call, args: tuple[Operand, ...]) -> Parts:
    return tuple(zip(call.args, args, strict=True))


def _check_count(function: Function, call: Call) -> None:
    """As many positional arguments as the function takes, and only keywords it has."""
    positional = function.positional
    least = sum(p.default is p.empty for p in positional)
    most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in positional) else len(positional)
    seen: set[str] = set()
    for key, expr in call.keywords:
        if key not in function.keywords:
            hint = did_you_mean(key[:64], function.keywords)
            raise InputError.of(f"{function.name} has no keyword {quoted(key)}", expr.span, hint or function.usage)
        if key in seen:
            raise InputError.of(f"the keyword {quoted(key)} is given twice", expr.span)
        seen.add(key)
    if not least <= len(call.args) <= most:
        count = f"{least}" if most == least else f"at least {least}" if most == math.inf else f"{least} to {most}"
        message = f"{function.name} takes {count} arguments, got {len(call.args)}"
        raise InputError.of(message, call.span, function.usage)


def _argument(function: Function, parameter: inspect.Parameter, value: Operand, span: Span) -> Operand:
    """The value as the parameter's annotation wants it."""
    wanted = str(parameter.annotation).removesuffix(" | None")
    label = f"{function.name}: {parameter.name}"
    if isinstance(value, Value) != (wanted == "Value"):
        found = "a tensor" if isinstance(value, Value) else f"the number {value}"
        kind = "a tensor" if wanted == "Value" else "a number"
        raise InputError.of(f"{label} must be {kind}, this is {found}", span, function.usage)
    if isinstance(value, Value):
        return value
    if isinstance(value, bool) or (wanted == "int" and not isinstance(value, int)):
        raise InputError.of(f"{label} must be a {'whole ' if wanted == 'int' else ''}number, this is {value}", span)
    if abs(value) > 2**31 - 1:
        raise InputError.of(f"{label} is too large: {value}", span)
    return value if wanted == "int" else float(value)


def _explained(error: GptcError, parts: Parts) -> InputError:
    """The error, saying what the named tensors are."""
    (found,) = error.diagnostics
    notes = tuple(f"{e} is {v.type}" for e, v in parts if isinstance(v, Value) and isinstance(e, Name))
    return InputError((type(found)(found.message, found.span, found.hint, tuple(dict.fromkeys(notes))),))
