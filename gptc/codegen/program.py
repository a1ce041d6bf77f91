"""A program as C text: its kernel calls in order, with named offsets instead of numbers.

Reads: a planned graph and the `Call`s selected for it.  Leaves: lines for `programs/<name>.c`.
Does not: decide where anything lives, or which kernel computes it.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gptc.codegen.filters import WIDTH, c_comment, c_float, c_ident, c_int
from gptc.codegen.kernel import Argument, Call, Element, Scratch
from gptc.contracts import SEGMENTS
from gptc.errors import InternalError, Span
from gptc.ir.analysis import intervals
from gptc.ir.graph import Graph, Placement, Value
from gptc.ir.ops.leaf import Constant
from gptc.ir.types import TensorType

LOCAL = frozenset((*SEGMENTS, "m", "AFTER", "MODEL_H", "OFFSETS_H", "KERNELS_H"))
"""Names that every program source uses for something else."""

LIBRARY = re.compile(r"GPTC_\w+|u?int\w*_t|U?INT\w*|\w+_(MAX|MIN|WIDTH|C)")
"""Names of <stdint.h>, the only library header that program sources see, and of `model.h`."""


class Identifiers:
    """Different names become different C identifiers, alike where C allows it: `h.0.a` is `h_0_a`."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._of: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        if name not in self._of:
            stem = c_ident(name)
            if stem in LOCAL or LIBRARY.fullmatch(stem):
                stem = f"{stem}_"
            numbered = (f"{stem}_{n}" for n in itertools.count(2))
            found = next(each for each in itertools.chain([stem], numbered) if each not in self._taken)
            self._taken.add(found)
            self._of[name] = found
        return self._of[name]

    @property
    def taken(self) -> frozenset[str]:
        """Every identifier in use."""
        return frozenset(self._taken)


@dataclass(frozen=True)
class Tensor:
    """A tensor that outlives programs: a parameter, optimizer state, an input or output."""

    name: str
    type: TensorType
    place: Placement


@dataclass(frozen=True)
class Program:
    """A planned graph with the kernel calls it is made of, in order."""

    graph: Graph
    calls: tuple[Call, ...]
    scratch: Mapping[str, int] = field(default_factory=dict)
    """Node -> where in the arena the scratch memory of its call lies."""

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def function(self) -> str:
        """The C function that runs it."""
        return f"gptc_{self.name}"

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """Every value that lies in memory: all but the constants, which kernels spell."""
        return tuple(v for n in self.graph.nodes if not isinstance(n.op, Constant) for v in n.results)

    def place(self, value: Value) -> Placement:
        """Where a value lives."""
        if value.name not in self.graph.plan:
            raise InternalError.of(f"%{value.name} of {self.name} has no place", self.graph.producer[value.name].span)
        return self.graph.plan[value.name]

    @cached_property
    def live(self) -> dict[str, tuple[int, int]]:
        """Value name -> the calls between which its memory holds it, both included."""
        position = {node.name: time for time, node in enumerate(self.graph.nodes)}
        times = [position[call.node.name] for call in self.calls]
        end = max(0, len(times) - 1)
        found: dict[str, tuple[int, int]] = {}
        for item in intervals(self.graph):
            last = max(0, bisect_right(times, item.last) - 1)
            for name in item.members:
                first = max(item.first, position[self.graph.producer[name].name])
                found[name] = (min(bisect_left(times, first), end), last)
        return found


def quote(span: Span | None, sources: Mapping[str, str]) -> str:
    """`file:line  the line itself`, as far as known."""
    if span is None:
        return ""
    lines = sources.get(span.file, "").splitlines()
    text = lines[span.line - 1].strip() if 0 < span.line <= len(lines) else ""
    return f"{span.file}:{span.line}  {text}".rstrip()


@dataclass(frozen=True)
class Speller:
    """Spells the calls of one program.

    `shared` has the identifier of every tensor that outlives programs, by segment and offset; `own` makes
    the identifiers of what lives in the arena.
    """

    program: Program
    shared: Mapping[tuple[str, int], str]
    own: Identifiers
    sources: Mapping[str, str]

    def arena(self) -> list[str]:
        """Enumerators for the values in the arena that calls mention, in the order of their first use."""
        found: dict[str, tuple[str, int, str]] = {}
        for number, call in enumerate(self.program.calls):
            for value in _values(call):
                place = self.program.place(value)
                if place.segment == "arena" and value.name not in found:
                    first, last = self.program.live[value.name]
                    note = c_comment(f"{value.type}, calls {first} to {last}")
                    found[value.name] = (self.own(value.name), place.offset, note)
            if call.scratch:
                name, note = _scratch_name(call), f"{call.scratch} bytes, call {number}"
                found[name] = (self.own(name), self.program.scratch[call.node.name], note)
        return enumerators(list(found.values()))

    def segments(self) -> list[str]:
        """The segments that the calls touch."""
        touched = {self.program.place(v).segment for call in self.program.calls for v in _values(call)}
        touched |= {"arena" for call in self.program.calls if call.scratch}
        return [segment for segment in SEGMENTS if segment in touched]

    def lines(self) -> list[str]:
        """The body of the function: a heading for each part of the model, a comment for each of its lines."""
        lines: list[str] = []
        origin, source = None, None
        for number, call in enumerate(self.program.calls):
            node = call.node
            if node.origin != origin:
                origin, source = node.origin, None
                lines += ["", f"// ---- {c_comment(origin)} ".ljust(WIDTH - 16, "-") if origin else "// ----"]
            if quote(node.span, self.sources) != source:
                source = quote(node.span, self.sources)
                lines += [f"// {shorten(c_comment(source), WIDTH - 7)}"] if source else []
            lines += [*self._call(call), f"AFTER({number});"]
        return lines[1:] if lines[:1] == [""] else lines

    def _call(self, call: Call) -> list[str]:
        types = [parameter.ctype for parameter in call.kernel.signature]
        pairs = zip(call.arguments, types, strict=True)
        arguments = [text for argument, ctype in pairs for text in self._argument(argument, ctype, call)]
        return wrap(f"{call.kernel.name}(", arguments, ");", WIDTH - 4)

    def _argument(self, argument: Argument, ctype: str, call: Call) -> list[str]:
        """An argument, in pieces between which a line may end."""
        match argument:
            case Scratch(size):
                return [f"arena + {self.own(_scratch_name(call))}" if size else "0"]
            case Value():
                return [self._address(argument)]
            case Element(value, index):
                return [f"{self._address(value)} + {c_int(index * value.type.dtype.size)}"]
            case tuple():
                *most, last = [c_int(a) if isinstance(a, int) else self._address(a) for a in argument]
                first, *rest = [*most, f"{last}}}"]
                return [f"({ctype.removesuffix('*').rstrip()}[]){{{first}", *rest]
            case int():
                return [c_int(argument)]
            case float():
                return [c_float(argument)]

    def _address(self, value: Value) -> str:
        place = self.program.place(value)
        if place.segment == "arena":
            return f"arena + {self.own(value.name)}"
        if name := self.shared.get((place.segment, place.offset)):
            return f"{place.segment} + {name}"
        base = max(offset for segment, offset in self.shared if segment == place.segment and offset < place.offset)
        return f"{place.segment} + {self.shared[place.segment, base]} + {place.offset - base}"


def _scratch_name(call: Call) -> str:
    return f"{call.node.name}.scratch"


def shorten(text: str, width: int) -> str:
    """The text, or as much of it as fits."""
    return text if len(text) <= width else f"{text[: width - 4]} ..."


def wrap(opening: str, items: Sequence[str], closing: str, width: int = WIDTH) -> list[str]:
    """`opening`, the items with commas between, `closing`: on one line or, where that is too long, on several."""
    lines = [opening]
    for number, item in enumerate(items, start=1):
        text = item + (closing if number == len(items) else ",")
        space = "" if number == 1 else " "
        if len(lines[-1]) + len(space + text) <= width:
            lines[-1] += space + text
        else:
            lines.append("    " + text)
    return lines if items else [opening + closing]


def enumerators(rows: Sequence[tuple[str, int, str]]) -> list[str]:
    """Lines of an `enum` of (name, number, comment), the comments under each other where they can be."""
    column = min(max((len(f"{name} = {number},") for name, number, _ in rows), default=0), 60)
    return [f"{f'{name} = {number},':{column}} // {note}" for name, number, note in rows]


def _values(call: Call) -> list[Value]:
    """The tensors among a call's arguments."""
    found: list[Value] = []
    for argument in call.arguments:
        if isinstance(argument, tuple):
            found += [each for each in argument if isinstance(each, Value)]
        elif isinstance(argument, Element):
            found.append(argument.value)
        elif isinstance(argument, Value):
            found.append(argument)
    return found
