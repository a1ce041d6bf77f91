"""The passes over a row: which element values each pass of a row kernel computes, and which it keeps for a later one.

A row body reads its row once for every level of reductions that depend on one another, and once more to store.
A value that a later pass needs again is computed again, unless it is expensive: then it waits in a buffer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gptc.ir.body import INDICES, REDUCTIONS, SCALARS, Stmt

EXPENSIVE = frozenset({n for n, s in SCALARS.items() if s.flops >= 4} | {"div"})
"""Functions that cost more than a store and a load of their result in the L1 cache."""


@dataclass(frozen=True)
class Phase:
    """One pass over the row."""

    reductions: tuple[Stmt, ...]
    """Finished by this pass; empty in the last one, which stores."""
    elements: tuple[Stmt, ...]
    """Element statements it computes, in order."""
    keeps: tuple[str, ...]
    """Values it leaves in buffers."""
    finds: tuple[str, ...]
    """Values it reads from buffers."""


def split(stmts: Sequence[Stmt], varying: Collection[str], stored: Sequence[str], keep: bool = True) -> list[Phase]:
    """Phases of a row body.  `varying`: names that differ along the row; `stored`: those that the last pass stores.

    Without `keep`, nothing waits in a buffer.
    """
    level = levels(stmts)
    last = max((level[s.result] for s in stmts if s.fn in REDUCTIONS), default=0)
    reductions = [tuple(s for s in stmts if s.fn in REDUCTIONS and level[s.result] == k + 1) for k in range(last)]
    roots = [[a for s in group for a in s.args if isinstance(a, str)] for group in reductions]
    roots.append(list(stored))
    maker = {s.result: s for s in stmts if s.result in varying and s.fn not in INDICES}
    kept: list[str] = []
    phases: list[Phase] = []
    for k, names in enumerate(roots):
        found = [n for n in kept if n in needed(names, maker, kept)]
        here = needed(names, maker, kept)
        elements = tuple(s for s in stmts if s.result in maker and s.result in here and s.result not in kept)
        new: list[str] = []
        for stmt in reversed(elements):
            later = (needed(other, maker, [*kept, *new]) for other in roots[k + 1 :])
            if keep and stmt.fn in EXPENSIVE and any(stmt.result in names for names in later):
                new.append(stmt.result)
        kept += new
        phases.append(Phase(reductions[k] if k < last else (), elements, tuple(reversed(new)), tuple(found)))
    return phases


def levels(stmts: Sequence[Stmt]) -> dict[str, int]:
    """How many reductions, one after another, come before each value; 0 for operands (which are not listed)."""
    level: dict[str, int] = {}
    for stmt in stmts:
        before = max((level.get(a, 0) for a in stmt.args if isinstance(a, str)), default=0)
        level[stmt.result] = before + (stmt.fn in REDUCTIONS)
    return level


def needed(names: Sequence[str], maker: dict[str, Stmt], kept: Collection[str]) -> set[str]:
    """Everything that computing `names` within one pass reads, buffers cutting the search short."""
    found: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            if name in maker and name not in kept:
                stack += [a for a in maker[name].args if isinstance(a, str)]
    return found
