"""What ranks do together: tensors go to the hooks of whoever runs the program, as addresses and sizes."""

from __future__ import annotations

from gptc.codegen.fixed import fixed_call
from gptc.codegen.kernel import Call
from gptc.codegen.select_optimizer import squares
from gptc.codegen.target import Target
from gptc.ir.graph import Node
from gptc.ir.ops.collective import AllGather, OwnSquares, ReduceScatterBegin, ReduceScatterEnd
from gptc.ir.ops.foreach import Foreach
from gptc.passes.group import MOST


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
    counts, length = tuple(v.type.count for v in node.operands), node.results[0].type.count
    if target.name == "c":
        return fixed_call(node, target, (*node.operands, *node.results, *counts, length))
    return fixed_call(node, target, (node.operands, node.results, counts, length, len(counts)), {"MOST": MOST})


def select_own_squares(node: Node, target: Target) -> Call:
    op = node.op.op if isinstance(node.op, Foreach) else node.op
    assert isinstance(op, OwnSquares)
    counts = tuple(op.of or v.type.count for v in node.operands)
    stem = "own_squares_of_share" if op.of else "own_squares"
    return squares(node, target, counts, {"divided": op.of > 0}, stem)
