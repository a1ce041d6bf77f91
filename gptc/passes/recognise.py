"""Primitives that are better differentiated and computed whole become one op.

Reads:    a simplified graph at stage `built`.      Leaves: the same stage.
Does:     softmax(causal_mask(s)) -> softmax(s, causal);
          matmul(softmax(scale * q k^T), v) -> attention(q, k, v), which stores no scores.
Does not: recognise scores that something else reads too: they would be computed twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.ir.graph import Graph, Node, Value, drop_unused
from gptc.ir.op import ShapeError
from gptc.ir.ops.attention import Attention
from gptc.ir.ops.elementwise import CausalMask
from gptc.ir.ops.matmul import Matmul
from gptc.ir.ops.softmax import Softmax
from gptc.passes.manager import Context
from gptc.passes.rewrite import Rewriter


@dataclass(frozen=True)
class Recognise:
    """Masked softmax and attention."""

    name: ClassVar[str] = "recognise"
    stages: ClassVar[tuple[str, str]] = ("built", "built")

    def run(self, graph: Graph, context: Context) -> Graph:
        rules = {"softmax": (_masked_softmax,), "matmul": (_attention,)}
        return drop_unused(Rewriter(graph, context).sweep(rules))


def _masked_softmax(r: Rewriter, node: Node) -> Node | None:
    """Entries that the mask sets to -inf have probability 0, which is what `causal` says."""
    mask = r.producer(node.operands[0])
    if not isinstance(mask.op, CausalMask) or node.op != Softmax():
        return None
    if mask.op.fill != -math.inf:
        r.context.missed("recognise", node, f"the mask fills with {mask.op.fill}, not with -inf")
        return None
    r.context.done("recognise", node, "softmax of a causal mask is one causal softmax", mask.results[0].type.nbytes)
    return replace(node, op=Softmax(causal=True), operands=mask.operands)


def _attention(r: Rewriter, node: Node) -> Node | None:
    """matmul(softmax(scale * matmul_nt(q, k)), v)."""
    softmax, v = r.producer(node.operands[0]), node.operands[1]
    if node.op != Matmul() or not isinstance(softmax.op, Softmax):
        return None
    scaled = softmax.operands[0]
    scores, scale = _scale(r, scaled)
    product = r.producer(scores)
    if product.op != Matmul(trans_b=True):
        return None
    (masked,) = r.before.producer[softmax.name].operands  # the same as `scaled` where there was no mask
    shared = [x for x in (softmax.results[0], masked, scaled, scores) if not _read_once(r, x)]
    if shared:
        r.context.missed("recognise", node, f"no attention: something else reads %{shared[0].name}")
        return None
    q, k = product.operands
    op = Attention(scale=scale, causal=softmax.op.causal)
    try:
        out, lse = op.infer(q.type, k.type, v.type)
    except ShapeError as error:
        r.context.missed("recognise", node, f"no attention: {error}")
        return None
    if out != node.results[0].type:
        r.context.missed("recognise", node, f"no attention: its result would be {out}")
        return None
    r.context.done("recognise", node, "scores, softmax and values are one attention", 2 * scores.type.nbytes)
    return replace(node, op=op, operands=(q, k, v), results=(*node.results, Value(r.b.fresh(f"{node.name}.lse"), lse)))


def _scale(r: Rewriter, value: Value) -> tuple[Value, float]:
    """The scores before they were scaled, and the factor."""
    node = r.producer(value)
    if node.op.name in ("mul", "div"):
        left, right = node.operands
        number = r.number(right)
        if number is not None and left.type == value.type:
            return left, number if node.op.name == "mul" else 1 / number
        number = r.number(left)
        if number is not None and node.op.name == "mul" and right.type == value.type:
            return right, number
    return value, 1.0


def _read_once(r: Rewriter, value: Value) -> bool:
    """Whether one node only reads `value`, which must not leave the graph either."""
    return len(r.before.users.get(value.name, ())) == 1 and value.name not in r.before.output_names
