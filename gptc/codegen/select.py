"""From a node of a planned graph to a kernel and the call of it."""

from __future__ import annotations

import math
from collections.abc import Callable

from gptc.codegen.fixed import Params, fixed_call
from gptc.codegen.kernel import Call, KernelSpec, Parameter, Scratch, ceil_div
from gptc.codegen.operands import ctype, tensor_parameter
from gptc.codegen.select_attention import (
    select_attention,
    select_attention_cached,
    select_attention_grad,
    select_cache_append,
)
from gptc.codegen.select_collective import (
    select_all_gather,
    select_exchange,
    select_own_share,
    select_own_squares,
    select_reduce_scatter_begin,
    select_reduce_scatter_end,
)
from gptc.codegen.select_column import select_column
from gptc.codegen.select_gemm import select_gemm
from gptc.codegen.select_map import select_map
from gptc.codegen.select_optimizer import select_adamw, select_global_norm, select_sum_squares
from gptc.codegen.select_row import select_row
from gptc.codegen.target import Target
from gptc.codegen.tensor_cores import Plan
from gptc.errors import InternalError, done_for
from gptc.ir.graph import Node
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.shape import Concat

TILE = 32
"""Rows that a block of a GPU adds up, of those sorted by where they go."""


def select(node: Node, target: Target, plan: Plan | None = None) -> Call | None:
    """The call that computes `node`; None for leaves and views, which are places and no work.

    `plan` says where values lie: some kernels read only what begins at multiples of 16 bytes.
    """
    if node.op.kernel is None:
        return None
    name = node.op.op.name if isinstance(node.op, Foreach) else node.op.name  # whose kernel takes several sets anyway
    with done_for(node.span):
        if name in PLACED:
            return PLACED[name](node, target, plan or {})
        if name not in SELECTORS:
            raise InternalError.of(f"target {target.name} has no kernel for {name}")
        return SELECTORS[name](node, target)


def _embedding(node: Node, target: Target) -> Call:
    w, ids = node.operands
    params: Params = {"ctype": ctype(w.type.dtype)}
    return fixed_call(node, target, (w, ids, *node.results, ids.type.count, int(w.type.shape[1])), params)


def _scatter_add(node: Node, target: Target) -> Call:
    base, ids, dy = node.operands
    vocabulary, cols = map(int, base.type.shape)
    rows = ids.type.count
    if target.name == "c":
        return fixed_call(node, target, (base, ids, dy, *node.results, vocabulary, rows, cols))
    scratch = Scratch(16 * rows + 1024 * ceil_div(rows, 1024) + 8 * ceil_div(rows, TILE) * cols)
    params: Params = {"ctype": ctype(dy.type.dtype), "VEC": 4, "TILE": TILE}
    return fixed_call(node, target, (base, ids, dy, *node.results, scratch, vocabulary, rows, cols), params)


def _concat(node: Node, target: Target) -> Call:
    """Rows are the axes before the one that is joined; a piece's columns are that axis and those after it."""
    assert isinstance(node.op, Concat)
    (y,) = node.results
    axis = node.op.axis % y.type.rank
    rows = math.prod(map(int, y.type.shape[:axis]))
    names = [f"x{i}" for i in range(len(node.operands))]
    widths = tuple(math.prod(map(int, v.type.shape[axis:])) for v in node.operands)
    for value in node.operands:
        if value.type.strides is not None:
            raise InternalError.of(f"concat copies dense pieces, got %{value.name}: {value.type}")
    signature = (
        *(tensor_parameter(n, v, True, f"[rows, {n}_cols]") for n, v in zip(names, node.operands, strict=True)),
        tensor_parameter("y", y, False, "[rows, all columns]"),
        *(Parameter(n, "int64_t") for n in ("rows", *(f"{n}_cols" for n in names))),
    )
    params = {"ctype": ctype(y.type.dtype), "pieces": [(n, f"{n}_cols") for n in names]}
    return Call(node, KernelSpec("concat", "concat", params, signature), (*node.operands, y, rows, *widths))


SELECTORS: dict[str, Callable[[Node, Target], Call]] = {
    "map": select_map,
    "row": select_row,
    "column": select_column,
    "concat": _concat,
    "embedding": _embedding,
    "scatter_add": _scatter_add,
    "adamw": select_adamw,
    "sum_squares": select_sum_squares,
    "global_norm": select_global_norm,
    "all_reduce_begin": select_exchange,
    "all_reduce_end": select_exchange,
    "reduce_scatter_begin": select_reduce_scatter_begin,
    "reduce_scatter_end": select_reduce_scatter_end,
    "all_gather": select_all_gather,
    "own_share": select_own_share,
    "own_squares": select_own_squares,
    "norm_over_ranks": select_global_norm,
    "cache_append": select_cache_append,
}
PLACED: dict[str, Callable[[Node, Target, Plan], Call]] = {
    "gemm": select_gemm,
    "attention": select_attention,
    "attention_grad": select_attention_grad,
    "attention_cached": select_attention_cached,
}
"""Ops whose kernels differ by where their operands lie."""
