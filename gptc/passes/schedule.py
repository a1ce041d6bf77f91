"""An order of the nodes in which little is alive at a time.

Reads:    a graph at stage `fused`.       Leaves: stage `scheduled`.
Does:     keep the given order, except that a node which frees at least as much memory as it takes runs as soon as it
          can (a weight update, the squares of a gradient still in the cache), unless all it does is wait; keep a
          buffer's new value behind every reader of the old one; go back to the given order where that has the lower
          peak.
Does not: add or remove nodes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.analysis import ARENA, buffers, intervals, live_bytes, segments
from gptc.ir.graph import Graph, Node
from gptc.ir.ops.shape import View
from gptc.passes.manager import Context

SCALAR = 64
"""Results of no more bytes than this do not count: they never decide the peak."""


@dataclass(frozen=True)
class Schedule:
    """List scheduling by bytes freed, stable by position."""

    name: ClassVar[str] = "schedule"
    stages: ClassVar[tuple[str, str]] = ("fused", "scheduled")

    def run(self, graph: Graph, context: Context) -> Graph:
        edges = _Edges(graph)
        given = replace(graph, nodes=edges.order())
        eager = replace(graph, nodes=_Eager(given, edges).order())
        before, after = max(live_bytes(given)), max(live_bytes(eager))
        if after > before:
            return given.at("scheduled")
        if eager.nodes != given.nodes:
            message = f"at most {after:,} bytes alive at a time, {before:,} in the given order"
            context.done(self.name, graph.nodes[-1], message, before - after)
        return eager.at("scheduled")


class _Edges:
    """Which node must run before which, by name."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.before: dict[str, list[str]] = {}
        self.after: dict[str, list[str]] = {n.name: [] for n in graph.nodes}
        for node in graph.nodes:
            self.before[node.name] = list(dict.fromkeys(graph.producer[v.name].name for v in node.operands))
            for name in self.before[node.name]:
                self.after[name].append(node.name)
        leaves = buffers(graph)
        for output in graph.outputs:
            if output.name in leaves:
                self.keep_old_value(leaves[output.name], graph.producer[output.value.name])

    def keep_old_value(self, buffer: Node, writer: Node) -> None:
        """Let `writer`, which computes the new value of `buffer`, wait for the readers of the old one.

        A reader that itself needs the new value cannot come first; planning then adds a copy.
        """
        behind = self.reached(writer)
        for reader in _readers(self.graph, buffer):
            if reader.name not in behind and reader.name not in self.before[writer.name]:
                self.before[writer.name].append(reader.name)
                self.after[reader.name].append(writer.name)

    def reached(self, node: Node) -> set[str]:
        """The node and everything that must run after it."""
        found, stack = {node.name}, [node.name]
        while stack:
            for name in self.after[stack.pop()]:
                if name not in found:
                    found.add(name)
                    stack.append(name)
        return found

    def order(self) -> tuple[Node, ...]:
        """The given order, changed only where an edge demands it."""
        position = {n.name: i for i, n in enumerate(self.graph.nodes)}
        waiting = {name: len(names) for name, names in self.before.items()}
        ready = [position[name] for name, count in waiting.items() if count == 0]
        heapq.heapify(ready)
        done: list[Node] = []
        while ready:
            node = self.graph.nodes[heapq.heappop(ready)]
            done.append(node)
            for name in self.after[node.name]:
                waiting[name] -= 1
                if waiting[name] == 0:
                    heapq.heappush(ready, position[name])
        return tuple(done)


def _readers(graph: Graph, node: Node) -> Iterator[Node]:
    """The nodes that read the results of `node`, also through views."""
    for value in node.results:
        for user in graph.users[value.name]:
            yield user
            if isinstance(user.op, View):
                yield from _readers(graph, user)


class _Eager:
    """List scheduling: of the nodes that may run, the first that frees what it takes, else simply the first."""

    def __init__(self, graph: Graph, edges: _Edges) -> None:
        self.nodes = graph.nodes
        self.edges = edges
        self.position = {n.name: i for i, n in enumerate(graph.nodes)}
        self.lazy = frozenset(n.name for n in graph.nodes if n.op.lazy)
        self.waiting = {name: len(names) for name, names in edges.before.items()}
        self.net = dict.fromkeys(self.position, 0)
        """Bytes that a node takes less those that would die with it if it ran now."""
        self.size: dict[str, int] = {}
        """Storages of the arena, by the value that fills them, and their bytes.  Scalars cost nothing."""
        self.readers: dict[str, dict[str, None]] = {}
        """Storage -> the nodes that still have to read it."""
        self.reads: dict[str, list[str]] = {name: [] for name in self.position}
        """Node -> the storages that it reads."""
        self.measure(graph)

    def measure(self, graph: Graph) -> None:
        segment = segments(graph)
        storage: dict[str, str] = {}
        for item in intervals(graph):
            if segment[item.value.name] == ARENA and item.nbytes > SCALAR:
                self.size[item.value.name] = item.nbytes
                self.readers[item.value.name] = {}
                storage |= dict.fromkeys(item.members, item.value.name)
        for node in graph.nodes:
            if isinstance(node.op, View):
                continue
            self.net[node.name] += sum(self.size.get(v.name, 0) for v in node.results)
            self.reads[node.name] = list(dict.fromkeys(storage[v.name] for v in node.operands if v.name in storage))
            for name in self.reads[node.name]:
                self.readers[name][node.name] = None
        for name in self.readers:
            self.last_reader(name)

    def last_reader(self, storage: str) -> str:
        """Credit a storage to the one node that still has to read it, if there is only one."""
        if len(self.readers[storage]) != 1:
            return ""
        (name,) = self.readers[storage]
        self.net[name] -= self.size[storage]
        return name

    def order(self) -> tuple[Node, ...]:
        """Every node once."""
        ready: list[tuple[bool, int]] = []

        def offer(name: str) -> None:
            if self.waiting[name] == 0:
                heapq.heappush(ready, (self.net[name] > 0 or name in self.lazy, self.position[name]))

        for name in self.position:
            offer(name)
        done: dict[str, Node] = {}
        while ready:
            node = self.nodes[heapq.heappop(ready)[1]]
            if node.name in done:
                continue  # it was offered again when it began to free
            done[node.name] = node
            for storage in self.reads[node.name]:
                del self.readers[storage][node.name]
                if name := self.last_reader(storage):
                    offer(name)
            for name in self.edges.after[node.name]:
                self.waiting[name] -= 1
                offer(name)
        return tuple(done.values())
