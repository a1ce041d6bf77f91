"""What every rank of a job would do alike, the ranks divide among them.

Reads:    a graph at stage `precise` with an `all_reduce` for every gradient, and the update of every parameter.
Leaves:   the same stage.
Does:     let each rank add up the squares of its share of the gradients, for a norm over all shares; with `ranks`, give
          each its share alone of the gradients (`reduce_scatter`) and of the optimizer's state, let it update its share
          of the parameters, and gather these from all ranks at the end.
Does not: change a bit of what is computed: with and without `ranks`, sums have the same order.

Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020, stage 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.analysis import buffers
from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Output, Value
from gptc.ir.ops.collective import AllGather, AllReduce, NormOverRanks, OwnShare, OwnSquares, ReduceScatter
from gptc.ir.ops.elementwise import Cast
from gptc.ir.ops.leaf import Buffer
from gptc.ir.ops.optimizer import AdamW, GlobalNorm, Rule, SumSquares
from gptc.ir.ops.random import StochasticRound
from gptc.ir.types import DType, TensorType
from gptc.passes.manager import Context
from gptc.shares import share

PARAMETER, GRADIENT = 0, 1
"""Operands of an update."""


@dataclass(frozen=True)
class Shard:
    """Divide squares among the ranks of a job and, among `ranks` of them, the optimizer's state."""

    name: ClassVar[str] = "shard"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    ranks: int = 1
    """1: each has all state, and how many there are is known when the program runs."""

    def run(self, graph: Graph, context: Context) -> Graph:
        updates = [n for n in graph.nodes if isinstance(n.op, (AdamW, Rule))]
        gradients = frozenset(n.operands[GRADIENT].name for n in updates)
        divided = _squares_divided(graph, gradients, self.ranks)
        if self.ranks == 1:
            return divided
        for node in updates:
            saved = sum(v.type.nbytes for v in node.operands[GRADIENT + 1 :] if v.type.rank)
            saved -= saved // self.ranks
            context.done(self.name, node, f"its state is divided among {self.ranks} ranks", saved)
        return _Division(divided, self.ranks, gradients, frozenset(n.name for n in updates)).run()


def _squares_divided(graph: Graph, gradients: frozenset[str], ranks: int) -> Graph:
    """Norms of gradients, each rank squaring its share of them."""

    def divided(node: Node) -> Node:
        if isinstance(node.op, SumSquares) and node.operands[0].name in gradients:
            return replace(node, op=OwnSquares(of=node.operands[0].type.count if ranks > 1 else 0))
        if isinstance(node.op, GlobalNorm):
            return replace(node, op=NormOverRanks())
        return node

    return replace(graph, nodes=tuple(map(divided, graph.nodes)))


class _Division:
    """One walk over a graph whose updates are divided."""

    def __init__(self, graph: Graph, ranks: int, gradients: frozenset[str], updates: frozenset[str]) -> None:
        self.graph, self.ranks, self.gradients, self.updates = graph, ranks, gradients, updates
        self.state = {v.name for n in graph.nodes if n.name in updates for v in n.operands} & {
            n.name for n in buffers(graph, "state").values()
        }
        self.b = Builder(graph.name)
        self.b.reserve(v.name for v in graph.values())
        self.new: dict[str, Value] = {}
        """Value -> what has its name now: a share of it."""
        self.last: list[Node] = []
        """What puts parameters together, and what reads those, for the end: many are gathered at a time."""
        self.late: set[str] = set()
        """Results of those nodes."""

    def run(self) -> Graph:
        for node in self.graph.nodes:
            node = replace(node, operands=tuple(self.new.get(v.name, v) for v in node.operands))
            if any(v.name in self.late for v in node.operands):
                self.put_off(node)
            elif isinstance(node.op, AllReduce) and node.name in self.gradients:
                self.put(node, ReduceScatter(share=self.share(node.operands[0])))
            elif isinstance(node.op, Buffer) and node.name in self.state:
                self.put(node, replace(node.op, shape=(self.share(node.results[0]),)))
            elif node.name in self.updates:
                self.update(node)
            else:
                self.b.add_node(node)
        for node in self.last:
            self.b.add_node(node)
        outputs = (Output(o.name, self.new.get(o.value.name, o.value)) for o in self.graph.outputs)
        # A mean in place of a gradient's sum has no place there as a share, and nobody reads it.
        kept = tuple(o for o in outputs if o.value.name not in self.gradients)
        return replace(self.graph, nodes=tuple(self.b.nodes), outputs=kept)

    def share(self, whole: Value) -> int:
        """Elements of a rank's."""
        return share(whole.type.count, self.ranks)

    def put(self, node: Node, op: ReduceScatter | Buffer) -> None:
        """The node with another op, whose result is a share."""
        (kind,) = op.infer(*(v.type for v in node.operands))
        self.new[node.name] = replace(node.results[0], type=kind)
        self.b.add_node(replace(node, op=op, results=(self.new[node.name],)))

    def put_off(self, node: Node) -> None:
        self.last.append(node)
        self.late.update(v.name for v in node.results)

    def update(self, node: Node) -> None:
        """The update of a share, and for the end the parameter from all shares, and what is rounded from that."""
        parameter, (new, *others) = node.operands[PARAMETER], node.results
        base, rounded = parameter, None
        if isinstance(node.op, AdamW) and node.op.copy:
            *others, rounded = others
        elif parameter.type.dtype is not DType.f32:
            base, rounded, new = self.widened(node), new, self.fresh(new, ".wide")
        length = self.share(base)
        kind = base.type.with_shape((length,))
        own, part = self.fresh(parameter, ".own", kind), self.fresh(new, ".own", kind)
        self.b.add_node(replace(node, op=OwnShare(share=length), operands=(base,), results=(own,)))
        exact, rounding = _apart(node, new, rounded)
        state = tuple(replace(v, type=kind) for v in others)
        self.new |= {v.name: v for v in state}
        self.b.add_node(replace(exact, operands=(own, *exact.operands[GRADIENT:]), results=(part, *state)))
        self.put_off(replace(node, op=AllGather(), operands=(part, base), results=(new,)))
        if rounding is not None:
            self.put_off(rounding)

    def fresh(self, like: Value, suffix: str, kind: TensorType | None = None) -> Value:
        """A value named after another, in f32 of the same shape unless `kind` says otherwise."""
        return Value(self.b.fresh(like.name + suffix), kind or replace(like.type, dtype=DType.f32))

    def widened(self, node: Node) -> Value:
        """A parameter that is not f32, in f32, where its shares will be gathered."""
        wide = self.fresh(node.operands[PARAMETER], ".wide")
        self.b.add_node(replace(node, op=Cast(DType.f32), operands=node.operands[:GRADIENT], results=(wide,)))
        return wide


def _apart(node: Node, new: Value, rounded: Value | None) -> tuple[Node, Node | None]:
    """An update in f32, and how `rounded` comes from all of the new parameter: ranks draw what one alone would."""
    op = node.op
    if rounded is None or not isinstance(op, AdamW):
        return node, None
    exact = replace(node, op=replace(op, copy="", stochastic=False))
    if not op.stochastic:
        return exact, replace(node, op=Cast(rounded.type.dtype), operands=(new,), results=(rounded,))
    *own, seed, lr, step, scale = node.operands
    rounding = replace(node, op=StochasticRound(), operands=(new, seed), results=(rounded,))
    return replace(exact, operands=(*own, lr, step, scale)), rounding
