"""Grow regions that become one kernel each.

Reads:    a graph at stage `fused` in which every region holds one op (after `lower`).
Leaves:   the same stage with fewer, larger regions.
Does:     join a producer with its reader (map chains, the prologue and epilogue of a row, the epilogue of a
          gemm, the terms of a column sum) and neighbours that read the same operand; where asked to, sums over the rows
          with what goes through these anyway; the largest saving of memory traffic first.
Does not: duplicate work, change dtypes or the order of a reduction, or join what stands far apart: a value
          computed long before its use would only live longer.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from gptc.ir.body import INDICES
from gptc.ir.graph import Graph, Node
from gptc.passes.regions import Item, Regions

if TYPE_CHECKING:
    from gptc.passes.manager import Context

JOINS = {
    ("map", "map"): "map",
    ("map", "row"): "row",
    ("row", "map"): "row",
    ("row", "row"): "row",
    ("map", "column"): "column",
    ("gemm", "map"): "gemm",
}
"""Kind of producer, kind of reader -> kind of the joined region."""

NEIGHBOURS = {
    ("map", "map"): "map",
    ("map", "row"): "row",
    ("row", "map"): "row",
    ("row", "row"): "row",
    ("column", "column"): "column",
}
"""Kinds of two regions that read the same operand -> kind of the joined region."""


@dataclass(frozen=True)
class Fuse:
    """See the module docstring."""

    name: ClassVar[str] = "fuse"
    stages: ClassVar[tuple[str, str]] = ("fused", "fused")

    max_operands: int = 16
    """Most tensors a region may read and make."""
    max_distance: int = 48
    """Most positions in the program between two regions that are joined."""
    epilogue: int | None = None
    """Most flops an element in the epilogue of a product; None for any number."""
    sums: int = 0
    """Most columns whose sums over the rows a row region makes beside its other results; 0: it makes none."""

    def run(self, graph: Graph, context: Context) -> Graph:
        regions = Regions(graph)
        queue: list[tuple[int, int, int]] = []
        refused: dict[tuple[str, str], tuple[Node, str, int]] = {}
        for item in list(regions.items.values()):
            self.offer(regions, item, queue)
        while queue:
            loss, first, second = heapq.heappop(queue)
            if first not in regions.items or second not in regions.items:
                continue
            a, b = regions.items[first], regions.items[second]
            if why := self.blocked(regions, a, b):
                refused[a.name, b.name] = (b.node, why, -loss)
                continue
            kind = self.kinds(regions, a, b)
            joined = regions.join(a, b, kind)
            context.done(self.name, joined.node, f"{a.label} and {b.label} are one {kind}", -loss)
            self.offer(regions, joined, queue)
        for (before, _), (node, why, size) in refused.items():
            context.missed(self.name, node, f"not joined with %{before}: {why}", size)
        return regions.graph()

    def kinds(self, regions: Regions, a: Item, b: Item) -> str:
        table = JOINS if regions.feeds(a, b) else NEIGHBOURS
        kind = table.get((a.kind, b.kind), "")
        if {a.kind, b.kind} in ({"row", "column"}, {"map", "column"}):
            alone = kind == "column" and not self.column_blocked(regions, a, b)
            return kind if alone or not self.sums else "row"
        return kind

    def offer(self, regions: Regions, item: Item, queue: list[tuple[int, int, int]]) -> None:
        """Queue every join that `item` could take part in."""
        for a, b in regions.pairs(item):
            if abs(a.level - b.level) <= self.max_distance and self.kinds(regions, a, b):
                heapq.heappush(queue, (-regions.saving(a, b), a.id, b.id))

    def blocked(self, regions: Regions, a: Item, b: Item) -> str:
        """Why the two may not be one region; empty when they may."""
        kind = self.kinds(regions, a, b)
        if not kind:
            return f"a {a.kind} and a {b.kind} do not share a loop"
        if a.space != b.space and not (kind == "row" and _one_a_row(a, b)):
            return f"their loops differ: {list(map(int, a.space))} and {list(map(int, b.space))}"
        if kind == "column" and (why := self.column_blocked(regions, a, b)):
            return why
        if kind == "row" and (a.sums or b.sums) and (why := self.sums_blocked(a, b)):
            return why
        strided = [n for n in (*a.reads, *b.reads) if regions.values[n].type.strides and n not in a.factors]
        if kind != "map" and strided:
            return f"%{strided[0]} is strided"
        if kind == "gemm" and (why := _epilogue_blocked(regions, a, b)):
            return why
        flops = a.wired.code.flops + b.wired.code.flops
        if kind == "gemm" and self.epilogue is not None and flops > self.epilogue:
            return f"{flops} flops an element would keep the product waiting"
        if len({*a.reads, *a.makes, *b.reads, *b.makes}) > self.max_operands:
            return f"more than {self.max_operands} operands"
        return "a path between them runs through other kernels" if regions.path_between(a, b) else ""

    def column_blocked(self, regions: Regions, a: Item, b: Item) -> str:
        """A column region makes sums only, so nobody else may want the terms."""
        if a.kind == "column":
            return "" if a.keep == b.keep else "they keep different axes"
        others = [n for n in a.makes if regions.escapes(n) or set(regions.readers[n]) != {b.id}]
        return f"%{others[0]} is wanted elsewhere" if others else ""

    def sums_blocked(self, a: Item, b: Item) -> str:
        """Sums over all rows are known when the last one has been read."""
        if a.space != b.space or any(item.kind == "column" and item.keep != 1 for item in (a, b)):
            return "the sums are not over the same rows"
        if early := [n for n in b.reads if n in a.sums]:
            return f"%{early[0]} is not known yet"
        return "" if a.space[-1] <= self.sums else f"more than {self.sums} columns have sums"


def _one_a_row(a: Item, b: Item) -> bool:
    """Whether one of the two is a map over the statistics [.., 1] of the rows of the other."""
    small, large = (a, b) if a.kind == "map" else (b, a)
    return (
        small.kind == "map"
        and len(small.space) == len(large.space)
        and small.space[:-1] == large.space[:-1]
        and small.space[-1] == 1
        and not any(s.fn in INDICES for s in small.wired.code.stmts)
    )


def _epilogue_blocked(regions: Regions, gemm: Item, map_: Item) -> str:
    """An epilogue reads the product's own elements, one number a column, or a scalar."""
    if any(s.fn in INDICES for s in map_.wired.code.stmts):
        return "the epilogue would need its indices"
    for name in map_.reads:
        value = regions.values[name]
        full = value.type.shape == gemm.space
        column = value.type.count == gemm.space[-1] and value.type.shape[-1:] == gemm.space[-1:]
        if not (full or column or value.type.count == 1):
            return f"%{name} broadcasts over the batch"
    return ""
