"""From a node of a planned graph to a kernel and the call of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

from gptc.codegen.kernel import Argument, Call, Element, KernelSpec, Parameter, Scratch, ceil_div
from gptc.codegen.operands import ctype, tensor_parameter
from gptc.codegen.render import contract
from gptc.codegen.select_column import select_column
from gptc.codegen.select_gemm import select_gemm
from gptc.codegen.select_map import select_map
from gptc.codegen.select_row import select_row
from gptc.codegen.target import Target
from gptc.codegen.tensor_cores import LONGEST_BLOCK, PACKET, Plan, begin_aligned, choose_attention
from gptc.errors import InternalError
from gptc.ir.graph import Node, Value
from gptc.ir.ops.attention import Attention, AttentionGrad
from gptc.ir.ops.cache import AttentionCached
from gptc.ir.ops.collective import AllGather, OwnSquares, ReduceScatterBegin, ReduceScatterEnd
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.optimizer import AdamW
from gptc.ir.ops.shape import Concat
from gptc.ir.types import DType, TensorType


def select(node: Node, target: Target, plan: Plan | None = None) -> Call | None:
    """The call that computes `node`; None for leaves and views, which are places and no work.

    `plan` says where values lie: some kernels read only what begins at multiples of 16 bytes.
    """
    if node.op.kernel is None:
        return None
    name = node.op.op.name if isinstance(node.op, Foreach) else node.op.name  # whose kernel takes several sets anyway
    if name in PLACED:
        return PLACED[name](node, target, plan or {})
    if name not in SELECTORS:
        raise InternalError.of(f"target {target.name} has no kernel for {name}", node.span)
    return SELECTORS[name](node, target)


Params = dict[str, object]

SQUARES = 8192
"""Elements whose squares a block of a GPU adds up."""
TILE = 32
"""Rows that a block of a GPU adds up, of those sorted by where they go."""
SETS = 48
"""Sets of tensors whose addresses and sizes fit among the arguments of a kernel."""
TERMS = 256
"""Addresses that fit among the arguments of a kernel, of which there may be 4 KB."""


def _fixed(
    node: Node, target: Target, arguments: tuple[Argument, ...], params: Params | None = None, stem: str = "",
    template: str = "", missing: Collection[str] = (),
) -> Call:  # fmt: skip
    """A call of a template that names its arguments in its contract; optional ones, but for those that are `missing`,
    are there all or none."""
    kernel = node.op.kernel or ""
    template = template or kernel
    args = contract(target.template(template)).args_of(len(arguments), missing)
    if len(args) != len(arguments):
        raise InternalError.of(f"{template} takes {len(args)} arguments, got {len(arguments)}")
    results = {id(v) for v in node.results}
    signature = tuple(Parameter(name, _ctype(value, results)) for name, value in zip(args, arguments, strict=True))
    return Call(node, KernelSpec(template, stem or kernel, params or {}, signature), arguments)


def _ctype(argument: Argument, results: set[int]) -> str:
    if isinstance(argument, int | float):
        return "int64_t" if isinstance(argument, int) else "float"
    if isinstance(argument, tuple):
        if isinstance(argument[0], int):
            return "const int64_t *"
        kind = ctype(argument[0].type.dtype)
        return f"{kind} *const *" if id(argument[0]) in results else f"const {kind} *const *"
    if isinstance(argument, Scratch):
        return "void *"
    value = argument.value if isinstance(argument, Element) else argument
    kind = ctype(value.type.dtype)
    return f"{kind} *" if id(value) in results else f"const {kind} *"


def _embedding(node: Node, target: Target) -> Call:
    w, ids = node.operands
    params: Params = {"ctype": ctype(w.type.dtype)}
    return _fixed(node, target, (w, ids, *node.results, ids.type.count, int(w.type.shape[1])), params)


def _scatter_add(node: Node, target: Target) -> Call:
    base, ids, dy = node.operands
    vocabulary, cols = map(int, base.type.shape)
    rows = ids.type.count
    if target.name == "c":
        return _fixed(node, target, (base, ids, dy, *node.results, vocabulary, rows, cols))
    scratch = Scratch(16 * rows + 1024 * ceil_div(rows, 1024) + 8 * ceil_div(rows, TILE) * cols)
    params: Params = {"ctype": ctype(dy.type.dtype), "VEC": 4, "TILE": TILE}
    return _fixed(node, target, (base, ids, dy, *node.results, scratch, vocabulary, rows, cols), params)


def _adamw(node: Node, target: Target) -> Call:
    op = node.op.op if isinstance(node.op, Foreach) else node.op
    assert isinstance(op, AdamW)
    dtype = node.operands[0].type.dtype
    narrow = op.copy or ("" if dtype is DType.f32 else str(dtype))
    stem = "adamw" + "_decay" * bool(op.weight_decay) + f"_{narrow}" * bool(narrow) + "_stochastic" * op.stochastic
    missing = [name for name, there in (("seed", op.stochastic), ("copy_out", op.copy)) if not there]
    params = op.attributes() | {"dtype": str(dtype)}
    if target.name == "c":
        arguments: tuple[Argument, ...] = (*node.operands, *node.results, node.operands[0].type.count)
        return _fixed(node, target, arguments, params, stem, missing=missing)
    times, shared = _sets(node, shared=3)
    own, results = (_in_rows(values, times) for values in (node.operands[:-shared], node.results))
    arguments = (*own, *node.operands[-shared:], *results, tuple(v.type.count for v in own[0]), times)
    return _fixed(node, target, arguments, params | {"MOST": SETS}, stem, missing=missing)


def _sum_squares(node: Node, target: Target) -> Call:
    counts = tuple(v.type.count for v in node.operands)
    if target.name == "c":
        return _fixed(node, target, (*node.operands, *node.results, *counts))
    scratch = Scratch(8 * sum(ceil_div(n, SQUARES) for n in counts))
    arguments = (node.operands, node.results, scratch, counts, len(counts))
    return _fixed(node, target, arguments, {"CHUNK": SQUARES, "MOST": SETS})


def _sets(node: Node, shared: int) -> tuple[int, int]:
    """How many sets of tensors a node takes, and how many operands are the same for all, `shared` of a node alone."""
    return (node.op.times, node.op.shared) if isinstance(node.op, Foreach) else (1, shared)


def _in_rows(values: tuple[Value, ...], length: int) -> tuple[tuple[Value, ...], ...]:
    """The values cut into rows."""
    return tuple(values[start : start + length] for start in range(0, len(values), length))


def _global_norm(node: Node, target: Target) -> Call:
    n = len(node.operands)
    if target.name == "c":
        return _fixed(node, target, (node.operands, *node.results, n))
    scratch = Scratch(8 * ceil_div(n, TERMS))
    return _fixed(node, target, (node.operands, *node.results, scratch, n), {"MOST": TERMS})


def _exchange(node: Node, target: Target) -> Call:
    counts = tuple(v.type.count for v in node.operands)
    return _fixed(node, target, (node.operands, node.results, counts, len(counts)))


def _reduce_scatter_begin(node: Node, target: Target) -> Call:
    assert isinstance(node.op, ReduceScatterBegin)
    counts = tuple(v.type.count for v in node.operands)
    return _fixed(node, target, (node.operands, node.results, counts, node.op.shares, len(counts)))


def _reduce_scatter_end(node: Node, target: Target) -> Call:
    assert isinstance(node.op, ReduceScatterEnd)
    promised = node.operands[: node.op.tensors]
    return _fixed(node, target, (promised, node.results, tuple(v.type.count for v in promised), len(promised)))


def _all_gather(node: Node, target: Target) -> Call:
    assert isinstance(node.op, AllGather)
    counts = tuple(v.type.count for v in node.results)
    return _fixed(node, target, (node.operands[: node.op.tensors], node.results, counts, len(counts)))


def _own_share(node: Node, target: Target) -> Call:
    (x,), (y,) = node.operands, node.results
    return _fixed(node, target, (x, y, x.type.count, y.type.count))


def _own_squares(node: Node, target: Target) -> Call:
    assert isinstance(node.op, OwnSquares)
    (x,), divided = node.operands, node.op.of > 0
    stem = "own_squares_of_share" if divided else "own_squares"
    return _fixed(node, target, (x, *node.results, node.op.of or x.type.count), {"divided": divided}, stem)


def _attention(node: Node, target: Target, plan: Plan) -> Call:
    assert isinstance(node.op, Attention)
    q, k, v = node.operands
    strides = _strides(q.type, k.type, v.type, node.results[0].type)
    arguments: tuple[Argument, ...] = (*node.operands, *node.results, *_heads(q, k), *strides)
    return _attend(node, q, target, arguments, plan)


def _cache_append(node: Node, target: Target) -> Call:
    cache, x, positions = node.operands
    batch, heads, length, size = map(int, cache.type.shape)
    sizes = (batch, heads, length, int(x.type.shape[2]), size, *_strides(x.type))
    params: Params = {"cache_dtype": str(cache.type.dtype), "dtype": str(x.type.dtype)}
    return _fixed(node, target, (cache, x, positions, *node.results, *sizes), params)


def _attention_cached(node: Node, target: Target) -> Call:
    assert isinstance(node.op, AttentionCached)
    q, k = node.operands[:2]
    batch, heads, new, size = map(int, q.type.shape)
    sizes = (batch, heads, int(k.type.shape[1]), new, int(k.type.shape[2]), size)
    strides = _strides(q.type, node.results[0].type)
    params = {"dtype": str(q.type.dtype), "cache_dtype": str(k.type.dtype), "scale": node.op.scale}
    return _fixed(node, target, (*node.operands, *node.results, *sizes, *strides), params)


def _attention_grad(node: Node, target: Target, plan: Plan) -> Call:
    assert isinstance(node.op, AttentionGrad)
    dout, q, k, v, out, _ = node.operands
    grads: tuple[Argument, ...] = node.results
    kinds = [g.type for g in node.results]
    if node.op.packed:
        grads, kinds = _unpack(node.results[0], q.type, k.type)
    strides = _strides(*(x.type for x in (dout, q, k, v, out)), *kinds)
    arguments: tuple[Argument, ...] = (*node.operands, *grads, *_heads(q, k), *strides)
    return _attend(node, q, target, arguments, plan, statistics=True)


def _attend(
    node: Node, q: Value, target: Target, arguments: tuple[Argument, ...], plan: Plan, statistics: bool = False
) -> Call:
    """A call of the target's attention or its gradient.  On a GPU the length of a head is part of the kernel, and on
    tensor cores the gradient keeps `statistics` of each query between its two kernels."""
    op = node.op
    assert isinstance(op, (Attention, AttentionGrad))
    kernel = op.kernel or ""
    stem = _attention_stem(kernel, op, q)
    params: Params = {"causal": op.causal, "scale": op.scale}
    if target.name != "cuda":
        params |= {"dtype": str(q.type.dtype), "MR": target.instructions.attention_rows}
        return _fixed(node, target, arguments, params, stem)
    size = int(q.type.shape[-1])
    choice = choose_attention(kernel, size, q.type.dtype, _heads_aligned(arguments, plan), target.march)
    if statistics and choice.template != f"{kernel}_f32":
        batch, heads, length = map(int, q.type.shape[:3])
        memory = Scratch(8 * batch * heads * ceil_div(length, LONGEST_BLOCK) * LONGEST_BLOCK)
        first = next(i for i, a in enumerate(arguments) if isinstance(a, int))
        arguments = (*arguments[:first], memory, *arguments[first:])
    call = _fixed(node, target, arguments, params | {"D": size} | dict(choice.params), stem, choice.template)
    return replace(call, note=choice.note)


def _heads_aligned(arguments: tuple[Argument, ...], plan: Plan) -> bool:
    """Whether every vector of a head begins at a multiple of 16 bytes: the tensors and, at the end, all strides."""
    parts = [a for a in arguments if isinstance(a, Element)]
    values = [a for a in arguments if isinstance(a, Value)] + [a.value for a in parts]
    numbers = [a for a in arguments if isinstance(a, int)]
    strides = numbers[5:]  # after B, H, Hkv, T, D
    return begin_aligned(values, plan) and all(x % PACKET == 0 for x in (*strides, *(a.index for a in parts)))


def _attention_stem(template: str, op: Attention | AttentionGrad, q: Value) -> str:
    """`attention_causal_grad`; a type at the end where it is not f32."""
    stem = template.replace("attention", "attention_causal") if op.causal else template
    return stem if q.type.dtype is DType.f32 else f"{stem}_{q.type.dtype}"


def _unpack(packed: Value, q: TensorType, k: TensorType) -> tuple[tuple[Element, ...], list[TensorType]]:
    """Where dq, dk and dv lie in [B, T, (H + 2 Hkv) D], each as [B, heads, T, D]."""
    width = int(packed.type.shape[-1])
    length, size = map(int, q.shape[2:])
    heads, few = int(q.shape[1]), int(k.shape[1])
    starts = (0, heads * size, (heads + few) * size)
    strides = (length * width, size, width, 1)
    kinds = [TensorType.of(x.dtype, x.shape, strides) for x in (q, k, k)]
    return tuple(Element(packed, start) for start in starts), kinds


def _heads(q: Value, k: Value) -> tuple[int, ...]:
    """B, H, Hkv, T, D."""
    batch, heads, length, size = map(int, q.type.shape)
    return batch, heads, int(k.type.shape[1]), length, size


def _strides(*kinds: TensorType) -> tuple[int, ...]:
    """Strides of b, h and t for each of [B, heads, T, D]; those of d are 1."""
    for kind in kinds:
        if kind.steps[-1] != 1 and kind.shape[-1] != 1:
            raise InternalError.of(f"attention reads whole vectors of D adjacent elements, got {kind}")
    return tuple(step for kind in kinds for step in kind.steps[:3])


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
            raise InternalError.of(f"concat copies dense pieces, got %{value.name}: {value.type}", node.span)
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
    "adamw": _adamw,
    "sum_squares": _sum_squares,
    "global_norm": _global_norm,
    "all_reduce_begin": _exchange,
    "all_reduce_end": _exchange,
    "reduce_scatter_begin": _reduce_scatter_begin,
    "reduce_scatter_end": _reduce_scatter_end,
    "all_gather": _all_gather,
    "own_share": _own_share,
    "own_squares": _own_squares,
    "norm_over_ranks": _global_norm,
    "cache_append": _cache_append,
    "attention_cached": _attention_cached,
}
PLACED: dict[str, Callable[[Node, Target, Plan], Call]] = {
    "gemm": select_gemm,
    "attention": _attention,
    "attention_grad": _attention_grad,
}
"""Ops whose kernels differ by where their operands lie."""
