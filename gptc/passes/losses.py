"""The loss at every position, beside their mean: what tells which of several endings a model finds the likeliest.

Reads:    the forward graph of a model with its loss, stage `built`.      Leaves: the same stage.
Does:     let the losses of the model's cross entropy leave the graph as `losses` f32[B,T,1].
Does not: choose: a model with no cross entropy over all positions, or with several, gets no such output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.graph import Graph, Output
from gptc.ir.ops.leaf import Input
from gptc.ir.ops.loss import CrossEntropy
from gptc.passes.manager import Context

LOSSES = "losses"


@dataclass(frozen=True)
class Losses:
    """See the module docstring."""

    name: ClassVar[str] = "losses"
    stages: ClassVar[tuple[str, str]] = ("built", "built")

    def run(self, graph: Graph, context: Context) -> Graph:
        shapes = [n.op.shape for n in graph.nodes if isinstance(n.op, Input) and n.op.key == "tokens"]
        found = [n for n in graph.nodes if isinstance(n.op, CrossEntropy) and n.results[0].type.shape[:-1] in shapes]
        if len(found) != 1:
            context.missed("losses", graph.nodes[-1], f"{len(found)} cross entropies over all positions; need one")
            return graph
        return replace(graph, outputs=(*graph.outputs, Output(LOSSES, found[0].results[0])))
