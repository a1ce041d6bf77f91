"""Compute less, exactly: equal nodes once, identities away, unused nodes dropped.

Reads:    a graph at any stage up to `precise`.      Leaves: the same stage.
Does:     common subexpressions; dead code; constants folded; identities of arithmetic, casts and shapes; sums into
          a scatter; broadcasts that elementwise ops do by themselves; flips of what they make.
Does not: reorder sums, or change a result by more than the sign of a zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from gptc.ir.body import INDICES
from gptc.ir.graph import Graph, Node, Output, Value, drop_unused
from gptc.ir.op import Op
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.elementwise import Cast, Elementwise
from gptc.ir.ops.leaf import Constant
from gptc.ir.ops.shape import Flip, Transpose
from gptc.ir.types import DType
from gptc.passes.manager import Context
from gptc.passes.rewrite import Rewriter, Rule, rewrite, with_operands


@dataclass(frozen=True)
class Simplify:
    """Common subexpressions, dead code, identities."""

    name: ClassVar[str] = "simplify"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    def run(self, graph: Graph, context: Context) -> Graph:
        before = None
        while graph != before:
            before = graph
            graph = drop_unused(share(rewrite(graph, RULES, context)))
        return graph


def share(graph: Graph) -> Graph:
    """Compute equal nodes once: the first of them serves all."""
    known: dict[tuple[Op, tuple[Value, ...]], tuple[Value, ...]] = {}
    replaced: dict[str, Value] = {}
    nodes: list[Node] = []
    for old in graph.nodes:
        node = with_operands(old, lambda v: replaced.get(v.name, v))
        first = known.setdefault((node.op, node.operands), node.results)
        if first is node.results:
            nodes.append(node)
        else:
            replaced.update({v.name: w for v, w in zip(node.results, first, strict=True)})
    outputs = tuple(Output(o.name, replaced.get(o.value.name, o.value)) for o in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _neutral(number: float, *positions: int) -> Rule:
    """x op number = x, where the number may stand at one of `positions`."""

    def rule(r: Rewriter, node: Node) -> Value | None:
        for position in positions:
            other = node.operands[1 - position]
            if r.number(node.operands[position]) == number and other.type == node.results[0].type:
                return other
        return None

    return rule


def _fold(r: Rewriter, node: Node) -> Node | None:
    """A rank-0 result of constants is a constant, computed in double precision and rounded where it is used."""
    (y,) = node.results
    numbers = [r.number(v) for v in node.operands]
    if y.type.rank or isinstance(node.op, Cast) or any(n is None for n in numbers):
        return None
    (value,) = node.op.eval(*(np.asarray(n, np.float64) for n in numbers))
    return replace(node, op=Constant(float(value), y.type.dtype), operands=())


def _needless_broadcast(r: Rewriter, node: Node) -> Node | None:
    """Elementwise ops broadcast by themselves, as long as another operand gives the shape."""
    narrow = list(node.operands)
    for i, value in enumerate(node.operands):
        producer = r.producer(value)
        if producer.op.name == "broadcast_to":
            trial = [*narrow[:i], producer.operands[0], *narrow[i + 1 :]]
            if node.op.infer(*(v.type for v in trial)) == tuple(v.type for v in node.results):
                narrow = trial
    return replace(node, operands=tuple(narrow)) if tuple(narrow) != node.operands else None


def _reshaped(r: Rewriter, node: Node) -> Value | Node | None:
    """A reshape or broadcast to the same shape is nothing; one of its kind needs only the last."""
    (x,) = node.operands
    if x.type.shape == node.results[0].type.shape:
        return x
    producer = r.producer(x)
    return replace(node, operands=producer.operands) if isinstance(producer.op, type(node.op)) else None


def _transpose(r: Rewriter, node: Node) -> Value | Node | None:
    """The identity permutation is nothing; two transposes are one."""
    assert isinstance(node.op, Transpose)
    if node.op.perm == tuple(range(len(node.op.perm))):
        return node.operands[0]
    inner = r.producer(node.operands[0])
    if not isinstance(inner.op, Transpose):
        return None
    perm = tuple(inner.op.perm[i] for i in node.op.perm)
    return replace(node, op=Transpose(perm), operands=inner.operands)


def _flip(r: Rewriter, node: Node) -> Node | None:
    """What an elementwise op makes in reverse order is what it makes of reversed operands, which layout makes views.

    Not where others read its result too, which would then be computed twice, unless it is but a cast.
    """
    assert isinstance(node.op, Flip)
    (x,), inner = node.operands, r.producer(node.operands[0])
    alone = len(r.before.users.get(x.name, ())) <= 1 and x.name not in r.before.output_names
    if not isinstance(inner.op, Elementwise) or any(s.fn in INDICES for s in inner.op.body().stmts):
        return None
    if not alone and not isinstance(inner.op, Cast):
        return None
    axis = node.op.axis % x.type.rank - x.type.rank

    def flipped(v: Value) -> Value:
        broadcasts = v.type.rank < -axis or v.type.shape[axis] == 1
        made: Value = v if broadcasts else r.b.flip(v, axis=axis, label=f"{v.name}.flip")
        return made

    return replace(node, op=inner.op, operands=tuple(map(flipped, inner.operands)))


def _copy(r: Rewriter, node: Node) -> Value | None:
    """A copy of something contiguous is nothing."""
    return node.operands[0] if node.operands[0].type == node.results[0].type else None


def _cast(r: Rewriter, node: Node) -> Value | None:
    """A cast to the same type is nothing, and so is the way back from a wider type."""
    (x,), wanted = node.operands, node.results[0].type
    if x.type == wanted:
        return x
    inner = r.producer(x)
    if inner.op.name != "cast" or inner.operands[0].type != wanted:
        return None
    return inner.operands[0] if x.type.dtype in _WIDER.get(wanted.dtype, ()) else None


_WIDER = {DType.bf16: (DType.f32, DType.f64), DType.f16: (DType.f32, DType.f64), DType.f32: (DType.f64,)}
"""Types that hold every number of the key's type."""


def _sum_into_scatter(r: Rewriter, node: Node) -> Node | None:
    """x + scatter_add(0, ids, dy) = scatter_add(x, ids, dy): no tensor of zeros, no second sum."""
    for i, value in enumerate(node.operands):
        scatter, base = r.producer(value), node.operands[1 - i]
        only_here = len(r.before.users.get(value.name, ())) <= 1
        if scatter.op.name == "scatter_add" and only_here and base.type == node.results[0].type:
            zeros, ids, dy = scatter.operands
            if r.number(zeros) == 0:
                return replace(node, op=scatter.op, operands=(base, ids, dy))
    return None


def _all_rows(r: Rewriter, node: Node) -> Value | None:
    """embedding(w, [0, 1, ..., V-1]) = w."""
    w, ids = node.operands
    every = r.producer(ids).op.name == "iota" and ids.type.shape == w.type.shape[:1]
    return w if every else None


_SPECIAL: dict[str, tuple[Rule, ...]] = {
    "add": (_neutral(0, 0, 1), _sum_into_scatter),
    "sub": (_neutral(0, 1),),
    "mul": (_neutral(1, 0, 1),),
    "div": (_neutral(1, 1),),
    "reshape": (_reshaped,),
    "transpose": (_transpose,),
    "flip": (_flip,),
    "broadcast_to": (_reshaped,),
    "copy": (_copy,),
    "cast": (_cast,),
    "embedding": (_all_rows,),
}
_POINTWISE = [name for name, op in REGISTRY.items() if issubclass(op, Elementwise)]
RULES = _SPECIAL | {name: (_fold, *_SPECIAL.get(name, ()), _needless_broadcast) for name in _POINTWISE}
"""Op name -> its rules, tried in order."""
