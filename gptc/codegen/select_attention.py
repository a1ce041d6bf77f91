"""Attention, its gradient and its keys and values in caches: sizes, and strides of every batch, head and position."""

from __future__ import annotations

from dataclasses import replace

from gptc.codegen.few_rows import chunk_of, cut_head, is_input
from gptc.codegen.fixed import Params, fixed_call
from gptc.codegen.kernel import Argument, Call, Element, Scratch, ceil_div
from gptc.codegen.operands import ctype
from gptc.codegen.target import Target
from gptc.codegen.tensor_cores import LONGEST_BLOCK, PACKET, Plan, begin_aligned, choose_attention
from gptc.errors import InternalError
from gptc.ir.graph import Node, Value
from gptc.ir.ops.attention import Attention, AttentionGrad
from gptc.ir.ops.cache import AttentionCached
from gptc.ir.ops.foreach import Foreach
from gptc.ir.types import DType, TensorType
from gptc.passes.group import MOST


def select_attention(node: Node, target: Target, plan: Plan) -> Call:
    assert isinstance(node.op, Attention)
    q, k, v = node.operands
    strides = _strides(q.type, k.type, v.type, node.results[0].type)
    arguments: tuple[Argument, ...] = (*node.operands, *node.results, *_heads(q, k), *strides)
    return _attend(node, q, target, arguments, plan)


def select_cache_append(node: Node, target: Target) -> Call:
    times = node.op.times if isinstance(node.op, Foreach) else 1
    cache, x, positions = node.operands[0], node.operands[times], node.operands[-1]
    batch, heads, length, size = map(int, cache.type.shape)
    sizes = (batch, heads, length, int(x.type.shape[2]), size, *_strides(x.type))
    if target.name == "c":
        params: Params = {"cache_dtype": str(cache.type.dtype), "dtype": str(x.type.dtype)}
        return fixed_call(node, target, (cache, x, positions, *node.results, *sizes), params)
    caches, rows = node.operands[:times], node.operands[times : 2 * times]
    params = {"cache_ctype": ctype(cache.type.dtype), "ctype": ctype(x.type.dtype), "MOST": MOST}
    arguments: tuple[Argument, ...] = (caches, rows, positions, node.results, *sizes, times)
    return fixed_call(node, target, arguments, params | {"overlap": target.overlaps})


def select_attention_cached(node: Node, target: Target, plan: Plan) -> Call:
    assert isinstance(node.op, AttentionCached)
    q, k, v, positions = node.operands
    batch, heads, new, size = map(int, q.type.shape)
    length = int(k.type.shape[2])
    sizes = (batch, heads, int(k.type.shape[1]), new, length, size)
    strides = _strides(q.type, node.results[0].type)
    if target.name == "c":
        params: Params = {"dtype": str(q.type.dtype), "cache_dtype": str(k.type.dtype), "scale": node.op.scale}
        return fixed_call(node, target, (*node.operands, *node.results, *sizes, *strides), params)
    queries = batch * heads * new
    chunk = chunk_of(queries, length, size)
    split = chunk < length
    scratch = (Scratch(4 * queries * ceil_div(length, chunk) * (size + 2)),) if split else ()
    params = {
        "ctype": ctype(q.type.dtype), "cache_ctype": ctype(k.type.dtype), "scale": node.op.scale, "split": split,
        "overlap": target.overlaps, "early": target.overlaps and is_input(positions, plan),
    }  # fmt: skip
    params |= cut_head(size, k.type.dtype, begin_aligned((k, v), plan))
    return fixed_call(node, target, (*node.operands, *node.results, *scratch, *sizes, *strides, chunk), params)


def select_attention_grad(node: Node, target: Target, plan: Plan) -> Call:
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
    if target.amx and q.type.dtype is DType.bf16:
        return fixed_call(node, target, arguments, params, stem, f"{kernel}_amx")
    if target.name != "cuda":
        params |= {"dtype": str(q.type.dtype), "MR": target.instructions.attention_rows}
        return fixed_call(node, target, arguments, params, stem)
    size = int(q.type.shape[-1])
    choice = choose_attention(kernel, size, q.type.dtype, _heads_aligned(arguments, plan), target.march)
    if statistics and choice.template != f"{kernel}_f32":
        batch, heads, length = map(int, q.type.shape[:3])
        memory = Scratch(8 * batch * heads * ceil_div(length, LONGEST_BLOCK) * LONGEST_BLOCK)
        first = next(i for i, a in enumerate(arguments) if isinstance(a, int))
        arguments = (*arguments[:first], memory, *arguments[first:])
    call = fixed_call(node, target, arguments, params | {"D": size} | dict(choice.params), stem, choice.template)
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
