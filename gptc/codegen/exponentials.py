"""One exponential where a row body asks for two: e^(x - lse) is e^(x - max) / sum, where lse = max + log(sum).

A loss fused with its gradient is such a body: the sum is one of e^(x - max), so where a value may wait for the next
pass over the row, the gradient finds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gptc.ir.body import Arg, Body, Stmt

Made = Mapping[Arg, Stmt]
"""Name -> the statement that makes it."""


@dataclass(frozen=True)
class _Terms:
    """Of lse = max + log(row_sum(exp(x - max))): the names of x, of the exponential and of the sum."""

    x: Arg
    exp: Arg
    total: Arg


def share(body: Body) -> Body:
    """The body in which e^(x - lse) is made from the terms of the sum behind lse."""
    made: dict[Arg, Stmt] = {s.result: s for s in body.stmts}
    terms: dict[Arg, _Terms] = {s.result: found for s in body.stmts if (found := _terms(s, made))}
    stmts: list[Stmt] = []
    inverse: dict[Arg, str] = {}
    for stmt in body.stmts:
        if (found := _softmax(stmt, made, terms)) is None:
            stmts.append(stmt)
            continue
        if found.total not in inverse:
            name = f"{found.total}_inverse"
            while name in made or name in body.inputs:
                name += "_"
            inverse[found.total] = name
            stmts.append(Stmt(name, "div", (1.0, found.total)))
        stmts.append(Stmt(stmt.result, "mul", (found.exp, inverse[found.total])))
    return Body(body.inputs, tuple(stmts), body.outputs)


def _terms(stmt: Stmt, made: Made) -> _Terms | None:
    """What the statement is the log-sum-exp of, if it is one."""
    if stmt.fn != "add":
        return None
    top, log = stmt.args
    names = [log]
    for fn in ("log", "row_sum", "exp", "sub"):
        inner = made.get(names[-1])
        if inner is None or inner.fn != fn:
            return None
        names.append(inner.args[0])
    _, total, exp, difference, x = names
    return _Terms(x, exp, total) if made[difference].args[1] == top else None


def _softmax(stmt: Stmt, made: Made, terms: Mapping[Arg, _Terms]) -> _Terms | None:
    """The terms of lse if the statement is e^(x - lse), or that where a mask lets it through and else 0.

    The mask must be that of x, which is -inf where it hides.
    """
    exp = made.get(stmt.args[1]) if stmt.fn == "where" else stmt
    difference = made.get(exp.args[0]) if exp and exp.fn == "exp" else None
    if difference is None or difference.fn != "sub" or difference.args[1] not in terms:
        return None
    found = terms[difference.args[1]]
    if stmt is exp:
        return found if difference.args[0] == found.x else None
    mask, _, hidden = stmt.args
    x = made.get(found.x)
    masked = x is not None and x.fn == "where" and x.args == (mask, difference.args[0], -math.inf)
    return found if hidden == 0 and masked else None
