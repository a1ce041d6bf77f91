"""The graph while `fuse` works on it: regions that can be joined, and who reads whom."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gptc.ir.compose import Wired, join, keep
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.region import Column, Gemm, Map, Region, Row
from gptc.ir.types import Dim, Shape, broadcast

ACC = "acc"
"""What the first input of a gemm's body reads: the product, which is no value of the graph."""

CLASSES: dict[str, type[Region]] = {c.name: c for c in (Map, Row, Column, Gemm)}


@dataclass
class Item:
    """A region, or a node that stays as it is (`kind` is then empty)."""

    id: int
    node: Node
    kind: str
    space: Shape
    wired: Wired
    parts: tuple[str, ...]
    level: int
    """A potential: larger than that of everything it reads from."""
    factors: tuple[str, ...] = ()
    """The two matrices of a gemm."""
    keep: int = 0
    """The axes that a column region keeps."""
    summed: tuple[str, ...] = ()
    """What a row region makes that is added up over all rows."""

    @property
    def sums(self) -> tuple[str, ...]:
        """What is added up over rows."""
        return self.makes if self.kind == "column" else self.summed

    @property
    def name(self) -> str:
        return self.makes[0]

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.factors, *(n for n in self.wired.reads if n != ACC))))

    @property
    def makes(self) -> tuple[str, ...]:
        return self.wired.makes

    @property
    def label(self) -> str:
        return "+".join(p.split()[0] for p in self.parts)


class Regions:
    """Items by id, with the edges between them kept up to date over joins."""

    def __init__(self, graph: Graph) -> None:
        self.source = graph
        self.values: dict[str, Value] = {v.name: v for v in graph.values()}
        self.items: dict[int, Item] = {}
        self.maker: dict[str, int] = {}
        self.readers: dict[str, dict[int, None]] = {name: {} for name in self.values}
        self._ids = itertools.count(len(graph.nodes))
        for index, node in enumerate(graph.nodes):
            self._enter(_item(index, node))

    def _enter(self, item: Item) -> None:
        self.items[item.id] = item
        for name in item.makes:
            self.maker[name] = item.id
        for name in item.reads:
            self.readers[name][item.id] = None

    def escapes(self, name: str) -> bool:
        """Whether a value leaves the graph."""
        return name in self.source.output_names

    def feeds(self, a: Item, b: Item) -> bool:
        """Whether b reads what a makes."""
        return any(n in a.makes for n in b.reads)

    def pairs(self, item: Item) -> Iterator[tuple[Item, Item]]:
        """Pairs (earlier, later) that `item` could be one of: its makers and readers, and the other
        readers of an operand as large as its loop."""
        if not item.kind:
            return
        near = [self.maker[n] for n in item.reads]
        near += [r for n in item.makes for r in self.readers[n]]
        near += [r for n in item.reads if self.values[n].type.shape == item.space for r in self.readers[n]]
        for other in dict.fromkeys(near):
            if other != item.id and self.items[other].kind:
                a, b = sorted((item, self.items[other]), key=lambda i: (i.level, i.id))
                yield a, b

    def saving(self, a: Item, b: Item) -> int:
        """Bytes of memory traffic that joining saves: a read, and the write too where nobody else reads."""
        saved = 0
        for name in {*a.makes, *a.reads} & set(b.reads):
            size = self.values[name].type.nbytes
            private = name in a.makes and not self.escapes(name) and set(self.readers[name]) == {b.id}
            saved += 2 * size if private else size
        return saved

    def path_between(self, a: Item, b: Item) -> bool:
        """Whether some path from a to b runs through another item."""
        stack = [r for n in a.makes for r in self.readers[n] if r != b.id]
        seen: set[int] = set()
        while stack:
            here = stack.pop()
            if here == b.id:
                return True
            if here not in seen and self.items[here].level < b.level:
                seen.add(here)
                stack += [r for n in self.items[here].makes for r in self.readers[n]]
        return False

    def join(self, a: Item, b: Item, kind: str) -> Item:
        """Replace two items by one that does a, then b."""
        for item in (a, b):
            del self.items[item.id]
            for name in item.reads:
                self.readers[name].pop(item.id, None)
        wired = join(a.wired, b.wired)
        wanted = [n for n in wired.makes if self.escapes(n) or self.readers[n]]
        wired = keep(wired, wanted, pinned=wired.code.inputs[:1] if kind == "gemm" else ())
        joined = Item(
            id=next(self._ids),
            node=a.node if kind == "gemm" else b.node,
            kind=kind,
            space=a.space if a.space[-1:] != (1,) else b.space,
            wired=wired,
            parts=a.parts + tuple(p for p in b.parts if p not in a.parts),
            level=max(a.level, b.level),
            factors=a.factors,
            keep=max(a.keep, b.keep) if kind == "column" else 0,
            summed=tuple(n for n in (*a.sums, *b.sums) if n in wired.makes) if kind == "row" else (),
        )
        self._enter(joined)
        self._lift(joined)
        return joined

    def _lift(self, item: Item) -> None:
        """Raise the levels of readers that no longer stand above `item`."""
        stack = [item]
        while stack:
            below = stack.pop()
            for reader in [self.items[r] for n in below.makes for r in self.readers[n]]:
                if reader.level <= below.level:
                    reader.level = below.level + 1
                    stack.append(reader)

    def graph(self) -> Graph:
        """The nodes in an order that every edge respects, lowest level first."""
        waiting = {i.id: len({self.maker[n] for n in i.reads}) for i in self.items.values()}
        ready = [(i.level, i.id) for i in self.items.values() if not waiting[i.id]]
        heapq.heapify(ready)
        nodes: list[Node] = []
        while ready:
            item = self.items[heapq.heappop(ready)[1]]
            nodes.append(self._node(item))
            for reader in dict.fromkeys(r for n in item.makes for r in self.readers[n]):
                waiting[reader] -= 1
                if not waiting[reader]:
                    heapq.heappush(ready, (self.items[reader].level, reader))
        return replace(self.source, nodes=tuple(nodes))

    def _node(self, item: Item) -> Node:
        """The item as a node again."""
        if not item.kind:
            return item.node
        results = tuple(self.values[n] for n in item.makes)
        operands = tuple(self.values[n] for n in item.wired.reads if n != ACC)
        attributes: dict[str, object] = {}
        if isinstance(item.node.op, Gemm):
            attributes = {"trans_a": item.node.op.trans_a, "trans_b": item.node.op.trans_b}
        elif broadcast(*(v.type.shape for v in operands)) != item.space:
            attributes = {"shape": tuple(map(int, item.space))}
        if item.kind == "column":
            attributes["keep"] = item.keep
        if item.summed:
            attributes["sums"] = tuple(i for i, n in enumerate(item.makes) if n in item.summed)
        op = CLASSES[item.kind](
            body=item.wired.code,
            dtypes=tuple(str(v.type.dtype) for v in results),
            parts=item.parts,
            **attributes,  # type: ignore[arg-type]
        )
        return replace(item.node, op=op, operands=(*(self.values[n] for n in item.factors), *operands), results=results)


def _item(index: int, node: Node) -> Item:
    """A node as an item; nodes that are no regions keep their operands as an empty body's reads."""
    op, reads = node.op, tuple(v.name for v in node.operands)
    makes = tuple(v.name for v in node.results)
    if not isinstance(op, Region):
        names = tuple(f"x{i}" for i in range(len(reads)))
        opaque = Wired(replace(Map().body, inputs=names), reads, makes)
        return Item(index, node, "", (), opaque, (), index)
    factors = reads[:2] if isinstance(op, Gemm) else ()
    loop = (ACC, *reads[2:]) if isinstance(op, Gemm) else reads
    types = [v.type for v in node.operands]
    shapes = [op.product(types).shape] if isinstance(op, Gemm) else [t.shape for t in types]
    space = broadcast(*shapes, tuple(Dim(d) for d in op.shape)) or ()
    kept = op.keep if isinstance(op, Column) else 0
    summed = tuple(makes[i] for i in op.sums) if isinstance(op, Row) else ()
    return Item(index, node, op.name, space, Wired(op.body, loop, makes), op.parts, index, factors, kept, summed)
