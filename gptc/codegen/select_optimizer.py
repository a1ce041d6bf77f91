"""What follows the gradients: their norm and the updates, on a GPU many tensors a launch."""

from __future__ import annotations

from gptc.codegen.fixed import Params, fixed_call
from gptc.codegen.kernel import Argument, Call, Scratch, ceil_div
from gptc.codegen.target import Target
from gptc.ir.graph import Node, Value
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.optimizer import AdamW
from gptc.ir.types import DType
from gptc.passes.group import MOST

SQUARES = 8192
"""Elements whose squares a block of a GPU adds up."""
TERMS = 256
"""Addresses that fit among the arguments of a kernel, of which there may be 4 KB."""


def select_adamw(node: Node, target: Target) -> Call:
    op = node.op.op if isinstance(node.op, Foreach) else node.op
    assert isinstance(op, AdamW)
    dtype = node.operands[0].type.dtype
    narrow = op.copy or ("" if dtype is DType.f32 else str(dtype))
    stem = "adamw" + "_decay" * bool(op.weight_decay) + f"_{narrow}" * bool(narrow) + "_stochastic" * op.stochastic
    missing = [name for name, there in (("seed", op.stochastic), ("copy_out", op.copy)) if not there]
    params = op.attributes() | {"dtype": str(dtype)}
    if target.name == "c":
        arguments: tuple[Argument, ...] = (*node.operands, *node.results, node.operands[0].type.count)
        return fixed_call(node, target, arguments, params, stem, missing=missing)
    times, shared = _sets(node, shared=3)
    own, results = (_in_rows(values, times) for values in (node.operands[:-shared], node.results))
    arguments = (*own, *node.operands[-shared:], *results, tuple(v.type.count for v in own[0]), times)
    return fixed_call(node, target, arguments, params | {"MOST": MOST}, stem, missing=missing)


def select_sum_squares(node: Node, target: Target) -> Call:
    return squares(node, target, tuple(v.type.count for v in node.operands))


def squares(node: Node, target: Target, counts: tuple[int, ...], params: Params | None = None, stem: str = "") -> Call:
    """A call that adds up squares of tensors with so many elements."""
    if target.name == "c":
        return fixed_call(node, target, (*node.operands, *node.results, *counts), params, stem)
    scratch = Scratch(8 * sum(ceil_div(n, SQUARES) for n in counts))
    arguments = (node.operands, node.results, scratch, counts, len(counts))
    return fixed_call(node, target, arguments, {**(params or {}), "CHUNK": SQUARES, "MOST": MOST}, stem)


def _sets(node: Node, shared: int) -> tuple[int, int]:
    """How many sets of tensors a node takes, and how many operands are the same for all, `shared` of a node alone."""
    return (node.op.times, node.op.shared) if isinstance(node.op, Foreach) else (1, shared)


def _in_rows(values: tuple[Value, ...], length: int) -> tuple[tuple[Value, ...], ...]:
    """The values cut into rows."""
    return tuple(values[start : start + length] for start in range(0, len(values), length))


def select_global_norm(node: Node, target: Target) -> Call:
    n = len(node.operands)
    if target.name == "c":
        return fixed_call(node, target, (node.operands, *node.results, n))
    scratch = Scratch(8 * ceil_div(n, TERMS))
    return fixed_call(node, target, (node.operands, *node.results, scratch, n), {"MOST": TERMS})
