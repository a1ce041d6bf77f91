"""What ranks do together: tensors go to the hooks of whoever runs the program, as addresses and sizes."""

from __future__ import annotations

from gptc.codegen.fixed import fixed_call
from gptc.codegen.kernel import Call
from gptc.codegen.target import Target
from gptc.ir.graph import Node
from gptc.ir.ops.collective import AllGather, OwnSquares, ReduceScatterBegin, ReduceScatterEnd


def select_exchange(node: Node, target: Target) -> Call:
    counts = tuple(v.type.count for v in node.operands)
    return fixed_call(node, target, (node.operands, node.results, counts, len(counts)))


def select_reduce_scatter_begin(node: Node, target: Target) -> Call:
    assert isinstance(node.op, ReduceScatterBegin)
    counts = tuple(v.type.count for v in node.operands)
    return fixed_call(node, target, (node.operands, node.results, counts, node.op.shares, len(counts)))


def select_reduce_scatter_end(node: Node, target: Target) -> Call:
    assert isinstance(node.op, ReduceScatterEnd)
    promised = node.operands[: node.op.tensors]
    return fixed_call(node, target, (promised, node.results, tuple(v.type.count for v in promised), len(promised)))


def select_all_gather(node: Node, target: Target) -> Call:
    assert isinstance(node.op, AllGather)
    counts = tuple(v.type.count for v in node.results)
    return fixed_call(node, target, (node.operands[: node.op.tensors], node.results, counts, len(counts)))


def select_own_share(node: Node, target: Target) -> Call:
    (x,), (y,) = node.operands, node.results
    return fixed_call(node, target, (x, y, x.type.count, y.type.count))


def select_own_squares(node: Node, target: Target) -> Call:
    assert isinstance(node.op, OwnSquares)
    (x,), divided = node.operands, node.op.of > 0
    stem = "own_squares_of_share" if divided else "own_squares"
    return fixed_call(node, target, (x, *node.results, node.op.of or x.type.count), {"divided": divided}, stem)
