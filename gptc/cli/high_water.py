"""The high-water mark of a program's arena: the kernel call at which most is alive, and what that is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gptc.codegen.program import Program
from gptc.ir.analysis import ARENA


@dataclass(frozen=True)
class Tensor:
    """What lies in the arena between two calls, both included."""

    name: str
    kind: str
    """Its type, or `scratch` for what a kernel needs while it runs."""
    offset: int
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class HighWater:
    """A kernel call, and the tensors that are alive while it runs, those that share memory once."""

    call: int
    alive: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.alive)


def high_water(program: Program) -> HighWater:
    """The first call with the most bytes alive."""
    tensors = sorted(_tensors(program), key=lambda t: (t.offset, -t.nbytes))
    levels = (HighWater(call, _apart(tensors, call)) for call in range(len(program.calls)))
    return max(levels, key=lambda level: level.nbytes, default=HighWater(0, ()))


def by_layer(tensors: Sequence[Tensor]) -> list[tuple[str, str, int, int]]:
    """Name, type, number and bytes of tensors, of which those that only their layer tells apart are one; most first."""
    found: dict[tuple[str, str], list[Tensor]] = {}
    for each in tensors:
        found.setdefault((re.sub(r"\.\d+\.", ".*.", each.name), each.kind), []).append(each)
    groups = ((name if len(alike) > 1 else alike[0].name, kind, alike) for (name, kind), alike in found.items())
    rows = [(name, kind, len(alike), sum(t.nbytes for t in alike)) for name, kind, alike in groups]
    return sorted(rows, key=lambda row: -row[3])


def _tensors(program: Program) -> Iterator[Tensor]:
    for value in program.values:
        place = program.place(value)
        if place.segment == ARENA:
            size, kind = value.type.dtype.size, value.type
            lowest = place.offset - kind.reach_back * size
            yield Tensor(value.name, str(kind), lowest, kind.span * size, *program.live[value.name])
    for number, call in enumerate(program.calls):
        if call.scratch:
            name = f"{call.node.name}.scratch"
            yield Tensor(name, "scratch", program.scratch[call.node.name], call.scratch, number, number)


def _apart(tensors: Sequence[Tensor], call: int) -> tuple[Tensor, ...]:
    """Those alive during a call, in the order of their places; of several in one place the first, which is largest."""
    found: list[Tensor] = []
    end = 0
    for each in tensors:
        if each.first <= call <= each.last and each.offset >= end:
            found.append(each)
            end = each.offset + each.nbytes
    return tuple(found)
