"""Names of values: what the model file calls them, with everything inside a statement named after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gptc.ir.graph import Graph, Node, Output, Value


class Labels:
    """Old name -> new name, every new name once."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._taken: set[str] = set()

    def keep(self, nodes: Iterable[Node]) -> None:
        """Leave the names of these nodes as they are."""
        for node in nodes:
            for value in node.results:
                self.names[value.name] = self._unique(value.name)

    def add(self, nodes: Iterable[Node], named: Mapping[str, str], statement: str) -> None:
        """Name the nodes of one statement: `named` first, the rest `statement.op`, further results `.mean`."""
        nodes = tuple(nodes)
        for node in nodes:
            for value in node.results:
                if value.name in named:
                    self.names[value.name] = self._unique(named[value.name])
        for node in nodes:
            if node.op.name == "constant":
                self.keep((node,))
                continue
            first = self.names.setdefault(node.name, "") or self._unique(f"{statement}.{node.op.name}")
            self.names[node.name] = first
            for value in node.results[1:]:
                if value.name not in self.names:
                    self.names[value.name] = self._unique(f"{first}.{value.name.rpartition('.')[2]}")

    def _unique(self, name: str) -> str:
        unique, index = name, 1
        while unique in self._taken:
            unique, index = f"{name}_{index}", index + 1
        self._taken.add(unique)
        return unique


def rename(graph: Graph, labels: Labels) -> Graph:
    """The graph under its new names."""
    values = {v.name: Value(labels.names[v.name], v.type) for v in graph.values()}
    nodes = tuple(
        replace(
            node,
            operands=tuple(values[v.name] for v in node.operands),
            results=tuple(values[v.name] for v in node.results),
        )
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes, outputs=tuple(Output(o.name, values[o.value.name]) for o in graph.outputs))
