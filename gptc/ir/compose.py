"""Algebra of scalar bodies: binding literals, joining two bodies into one, dropping what nobody reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gptc.ir.body import Arg, Body, Stmt


def bind(code: Body, literals: Mapping[str, float]) -> Body:
    """Replace inputs by numbers."""

    def new(arg: Arg) -> Arg:
        return literals.get(arg, arg) if isinstance(arg, str) else arg

    return Body(
        tuple(n for n in code.inputs if n not in literals),
        tuple(Stmt(s.result, s.fn, tuple(map(new, s.args))) for s in code.stmts),
        code.outputs,
    )


@dataclass(frozen=True)
class Wired:
    """A body whose inputs and outputs are tied to values of a graph, by name."""

    code: Body
    reads: tuple[str, ...]
    """For each input of the body, the value it reads (or the accumulated product of a `gemm`)."""
    makes: tuple[str, ...]
    """For each output of the body, the value it makes."""


def join(first: Wired, second: Wired) -> Wired:
    """One body that does `first`, then `second`, reading the values they share once.

    Names of `first` stay; names of `second` get a number where they would clash, so that joining the
    same two bodies gives the same text in every layer.
    """
    known = dict(zip(first.reads, first.code.inputs, strict=True))
    known |= dict(zip(first.makes, first.code.outputs, strict=True))
    taken = {*first.code.inputs, *(s.result for s in first.code.stmts)}
    names: dict[str, str] = {}
    reads, inputs = list(first.reads), list(first.code.inputs)
    for name, value in zip(second.code.inputs, second.reads, strict=True):
        if value in known:
            names[name] = known[value]
        else:
            names[name] = _fresh(name, taken)
            reads.append(value)
            inputs.append(names[name])
    for stmt in second.code.stmts:
        names[stmt.result] = _fresh(stmt.result, taken)
    moved = second.code.rename(names)
    code = Body(tuple(inputs), first.code.stmts + moved.stmts, first.code.outputs + moved.outputs)
    return Wired(code, tuple(reads), first.makes + second.makes)


def _fresh(name: str, taken: set[str]) -> str:
    stem = name.rstrip("0123456789") or name
    index, candidate = 0, name
    while candidate in taken:
        index += 1
        candidate = f"{stem}{index}"
    taken.add(candidate)
    return candidate


def live(stmts: Sequence[Stmt], outputs: Sequence[str]) -> tuple[Stmt, ...]:
    """The statements that some output needs, in order."""
    wanted = set(outputs)
    kept: list[Stmt] = []
    for stmt in reversed(stmts):
        if stmt.result in wanted:
            kept.append(stmt)
            wanted.update(a for a in stmt.args if isinstance(a, str))
    return tuple(reversed(kept))


def keep(wired: Wired, wanted: Collection[str], pinned: Sequence[str] = ()) -> Wired:
    """Drop the outputs whose values are not `wanted`, then statements and inputs that nothing reads.

    Inputs named in `pinned` stay even when nothing reads them.
    """
    chosen = [(o, v) for o, v in zip(wired.code.outputs, wired.makes, strict=True) if v in wanted]
    outputs = tuple(o for o, _ in chosen)
    stmts = live(wired.code.stmts, outputs)
    read = {*outputs, *pinned, *(a for stmt in stmts for a in stmt.args)}
    pairs = [(i, v) for i, v in zip(wired.code.inputs, wired.reads, strict=True) if i in read]
    code = Body(tuple(i for i, _ in pairs), stmts, outputs)
    return replace(wired, code=dedupe(code), reads=tuple(v for _, v in pairs), makes=tuple(v for _, v in chosen))


def dedupe(code: Body) -> Body:
    """Compute equal statements once."""
    seen: dict[tuple[str, tuple[Arg, ...]], str] = {}
    names: dict[str, str] = {}
    stmts: list[Stmt] = []
    for stmt in code.stmts:
        args = tuple(names.get(a, a) if isinstance(a, str) else a for a in stmt.args)
        key = (stmt.fn, args)
        if key in seen:
            names[stmt.result] = seen[key]
        else:
            seen[key] = stmt.result
            stmts.append(Stmt(stmt.result, stmt.fn, args))
    return Body(code.inputs, tuple(stmts), tuple(names.get(o, o) for o in code.outputs))
