"""Vectors of a row for which every test of the column comes out alike, so that their elements need none of them.

`col < bound` holds for all but the last columns, `col == index` for one at most: beside the one or two vectors of a row
where they must be asked element by element, they would be most of the arithmetic of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from gptc.codegen.phases import Phase, needed
from gptc.codegen.scalar import SUM, Expr, literal
from gptc.ir.body import Stmt

OUTCOME = {"lt": True, "eq": False}
"""Tests of a column, and how they come out nearly everywhere."""


def column_tests(phase: Phase, columns: Collection[str], known: Mapping[str, Expr]) -> dict[str, tuple[Stmt, Expr]]:
    """The tests of a column in one pass, by name, each with the whole number that it compares with.

    `columns`: names of the column.  `known`: values of the row.
    """
    found = {}
    for stmt in phase.elements:
        if stmt.fn in OUTCOME and stmt.args[0] in columns:
            bound = stmt.args[1]
            expr = known.get(bound) if isinstance(bound, str) else literal(bound, "int")
            if expr and expr.kind == "int":
                found[stmt.result] = stmt, expr
    return found


def condition(found: Mapping[str, tuple[Stmt, Expr]], first: str) -> str:
    """Whether the vector of VEC columns from `first` on is one where they come out as they do nearly everywhere."""
    spelled = {"lt": "{0} + VEC <= {1}", "eq": "({1} < {0} || {1} >= {0} + VEC)"}
    return " && ".join(dict.fromkeys(spelled[stmt.fn].format(first, expr.at(SUM)) for stmt, expr in found.values()))


def settle(phase: Phase, found: Mapping[str, tuple[Stmt, Expr]], stored: Sequence[str]) -> Phase:
    """The pass over such a vector: without the tests, what they do not choose, and sums of zeros."""
    elements, zeros = [], set()
    for stmt in phase.elements:
        if stmt.fn == "where" and stmt.args[0] in found:
            test, _ = found[str(stmt.args[0])]
            stmt = Stmt(stmt.result, "copy", (stmt.args[1 if OUTCOME[test.fn] else 2],))
        elif stmt.fn == "sub" and stmt.args[1] in zeros:
            stmt = Stmt(stmt.result, "copy", stmt.args[:1])
        if stmt.fn == "copy" and stmt.args[0] == 0:
            zeros.add(stmt.result)
        elements.append(stmt)
    left = tuple(s for s in phase.reductions if not (s.fn in ("row_sum", "row_mean") and s.args[0] in zeros))
    roots = [*stored, *(a for s in left for a in s.args if isinstance(a, str))]
    read = needed(roots, {s.result: s for s in elements}, ())
    return replace(phase, elements=tuple(s for s in elements if s.result in read), reductions=left)
