"""Names of kernels for people: what a region computes, in the words of its ops."""

from __future__ import annotations

from gptc.codegen.filters import c_ident
from gptc.ir.graph import Node
from gptc.ir.ops.region import Gemm, Region
from gptc.ir.types import DType

MOST_WORDS = 5


def stem(node: Node, form: str = "") -> str:
    """`map_gelu`, `row_add_layer_norm`, `gemm_nt_add_gelu`; a type at the end where a result is not f32.

    `form` says which matrices of a product lie transposed.
    """
    op = node.op
    assert isinstance(op, Region)
    words = [p.split()[0] for p in op.parts if p] or sorted({s.fn for s in op.body.stmts}) or ["copy"]
    if isinstance(op, Gemm):
        words = [w for w in words if w != "matmul"]
    if len(words) > MOST_WORDS:
        words = [*words[: MOST_WORDS - 1], "etc"]
    types = sorted({v.type.dtype.value for v in node.results} - {DType.f32.value})
    return c_ident("_".join([op.name, *([form] if form else []), *words, *types]))
