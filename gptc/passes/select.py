"""Keep the outputs that a program is for.

Reads:    a graph at stage `built`.        Leaves: the same stage.
Does:     drop every other output, and the nodes that served only those.
Does not: change what is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.graph import Graph
from gptc.passes.manager import Context, UserFault
from gptc.passes.rewrite import drop_unused


@dataclass(frozen=True)
class Select:
    """The program that computes `outputs`."""

    name: ClassVar[str] = "select"
    stages: ClassVar[tuple[str, str]] = ("built", "built")

    outputs: tuple[str, ...] = ("loss",)

    def run(self, graph: Graph, context: Context) -> Graph:
        found = {o.name: o for o in graph.outputs}
        for name in self.outputs:
            if name not in found:
                have = ", ".join(sorted(found)) or "none"
                raise UserFault.of(f"the model has no output {name!r}; it has: {have}")
        return drop_unused(replace(graph, outputs=tuple(found[name] for name in self.outputs)))
