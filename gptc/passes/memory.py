"""Where every tensor lives.

Reads:    graphs at stage `scheduled`: the programs of one artefact.
Leaves:   stage `planned`: `graph.plan` gives every value but constants a segment and a byte offset.
Does:     lay out the segments `params`, `state` and `io`, the same for every program; share the arena between values
          whose lives do not overlap, and what a node needs while it runs; compute outputs right where they belong, or
          else append a copy.
Does not: change the order of nodes, which decides how much is alive at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.contracts import ALIGNMENT
from gptc.ir.analysis import ARENA, Interval, handovers, intervals, roots, segments
from gptc.ir.graph import Graph, Node, Placement
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.ops.shape import View
from gptc.passes.manager import Context
from gptc.passes.offsets import Life, lower_bound, plan, round_up
from gptc.passes.outputs import append_copies


@dataclass(frozen=True)
class ArenaReport:
    """The arena of one program, in bytes."""

    program: str
    arena: int
    lower_bound: int
    """The most that is alive at one time, each storage a multiple of a cache line: no plan for this order of nodes
    can do with less."""
    sum_of_tensors: int
    """Every tensor in a place of its own."""


@dataclass(frozen=True)
class MemoryReport:
    """What the programs of an artefact need together."""

    segments: Mapping[str, int]
    """Bytes of `params`, `state`, `io` and `arena`."""
    offsets: Mapping[tuple[str, str], int]
    """Segment and name of a buffer, input or output -> its byte offset."""
    arenas: tuple[ArenaReport, ...]
    scratch: tuple[Mapping[str, int], ...]
    """For each program: node -> where in the arena the memory lies that it needs while it runs."""


def no_scratch(node: Node) -> int:
    """Of kernels that need no memory beyond their operands and results."""
    return 0


@dataclass(frozen=True)
class Memory:
    """Plan one program alone; `plan_programs` plans those of an artefact together."""

    name: ClassVar[str] = "memory"
    stages: ClassVar[tuple[str, str]] = ("scheduled", "planned")

    mode: str = "best"
    """`best` shares; `naive` gives every tensor a place of its own."""

    def run(self, graph: Graph, context: Context) -> Graph:
        (planned,), _ = plan_programs([graph], context, self.mode)
        return planned


def plan_programs(
    graphs: Sequence[Graph], context: Context, mode: str = "best", scratch: Callable[[Node], int] = no_scratch
) -> tuple[tuple[Graph, ...], MemoryReport]:
    """Plan the programs of an artefact: they have the same segments, and one arena as large as the largest needs.

    `scratch` says how many bytes a node's kernel needs for itself while it runs.
    """
    complete = [append_copies(g, context) for g in graphs]
    stored = [_Storages(g, mode, scratch) for g in complete]
    sizes, offsets = lay_out(stored)
    arenas = tuple(s.report for s in stored)
    for graph, report in zip(complete, arenas, strict=True):
        bound, total = f"lower bound {report.lower_bound:,}", f"sum of tensors {report.sum_of_tensors:,} bytes"
        text = f"{graph.name}: arena {report.arena:,}, {bound}, {total}"
        context.note("memory", graph.nodes[-1], text, report.arena)
    sizes[ARENA] = max((r.arena for r in arenas), default=0)
    spaces = tuple(s.scratch for s in stored)
    return tuple(s.placed(offsets) for s in stored), MemoryReport(sizes, offsets, arenas, spaces)


class _Storages:
    """The pieces of memory of one program: those with a name outside the arena, and those inside."""

    def __init__(self, graph: Graph, mode: str, scratch: Callable[[Node], int]) -> None:
        self.graph = graph
        self.needs = {t: size for t, node in enumerate(graph.nodes) if (size := scratch(node))}
        segment = segments(graph)
        shared = handovers(graph)
        storage = roots(graph, shared)
        homes_only = {r: o for r, o in shared.items() if segment[storage[r]] != ARENA}
        items = intervals(graph, shared if mode == "best" else homes_only)
        self.arena = [i for i in items if segment[i.value.name] == ARENA]
        keys = {n.name: n.op.key for n in graph.nodes if isinstance(n.op, (Input, Buffer))}
        names = {o.value.name: o.name for o in graph.outputs} | keys
        self.homes: dict[str, tuple[str, str]] = {}
        """First value of a storage outside the arena -> its segment and its name there."""
        self.sizes: dict[tuple[str, str], int] = {}
        for item in items:
            first = item.value.name
            if segment[first] != ARENA:
                home = segment[first], next(names[m] for m in item.members if m in names)
                self.homes[first] = home
                self.sizes[home] = item.nbytes
        self.members = {m: i.value.name for i in items for m in i.members}
        self.starts, self.scratch, self.report = self.place_arena(mode, intervals(graph, homes_only), segment)

    def place_arena(
        self, mode: str, apart: Sequence[Interval], segment: Mapping[str, str]
    ) -> tuple[dict[str, int], dict[str, int], ArenaReport]:
        """Offsets by first value, those of scratch memory by node, and what they add up to."""
        lives = [Life(i.nbytes, i.first, i.last + 1) for i in self.arena]
        lives += [Life(size, time, time + 1) for time, size in self.needs.items()]
        if mode == "naive":
            lives = [Life(life.size, 0, 1) for life in lives]
        offsets = plan(lives)
        size = max((o + round_up(i.size, ALIGNMENT) for o, i in zip(offsets, lives, strict=True)), default=0)
        total = sum(i.nbytes for i in apart if segment[i.value.name] == ARENA) + sum(self.needs.values())
        starts = {i.value.name: o for i, o in zip(self.arena, offsets[: len(self.arena)], strict=True)}
        names = [self.graph.nodes[time].name for time in self.needs]
        scratch = dict(zip(names, offsets[len(self.arena) :], strict=True))
        return starts, scratch, ArenaReport(self.graph.name, size, lower_bound(lives, ALIGNMENT), total)

    def placed(self, offsets: Mapping[tuple[str, str], int]) -> Graph:
        """The graph with its plan."""
        found: dict[str, Placement] = {}
        for node in self.graph.nodes:
            for value in node.results:
                if isinstance(node.op, View):
                    base = found[node.operands[0].name]
                    found[value.name] = replace(base, offset=base.offset + node.op.offset * value.type.dtype.size)
                elif value.name in self.members:
                    first = self.members[value.name]
                    if first in self.homes:
                        found[value.name] = Placement(self.homes[first][0], offsets[self.homes[first]])
                    else:
                        found[value.name] = Placement(ARENA, self.starts[first])
        return replace(self.graph, plan=found, stage="planned")


def lay_out(programs: Sequence[_Storages]) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Sizes of the segments, and offsets of what they hold, in the order in which the programs mention it."""
    sizes = {"params": 0, "state": 0, "io": 0}
    known: dict[tuple[str, str], int] = {}
    offsets: dict[tuple[str, str], int] = {}
    for program in programs:
        for home, size in program.sizes.items():
            if known.setdefault(home, size) != size:
                raise ValueError(f"{home[1]} has two sizes: {known[home]} and {size} bytes")
            if home not in offsets:
                offsets[home] = sizes[home[0]]
                sizes[home[0]] += round_up(size, ALIGNMENT)
    return sizes, offsets
