"""Kernels of generation without a device: which product has few rows, what a kernel may ask for before it waits for the
one before it, and that nvcc takes GPT-2's without spilled registers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from gptc.codegen.kernel import Call
from gptc.codegen.render import render_kernel
from gptc.codegen.select import select
from gptc.codegen.target import CUDA_FLAGS, Target
from gptc.compiler import plan
from gptc.ir.body import Body, body
from gptc.ir.graph import Node
from gptc.ir.ops.cache import AttentionCached, CacheAppend
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.region import Gemm
from gptc.options import Options
from gptc.request import Request
from tests.codegen.native import apply
from tests.conftest import TINY
from tests.cuda.kernel_compiler import compile_kernel, needs_nvcc, untidy

HOPPER = Target("cuda", "nvcc", "sm_90a", CUDA_FLAGS, True, suffix="cu", shared=227 << 10)
AMPERE = replace(HOPPER, march="sm_80")
PLAIN = Body(("acc",), (), ("acc",))
RESIDUAL = body("acc b x", "y", "y = gelu(acc + b) + x")


def product(dtype: str, m: int, n: int, k: int, code: Body = PLAIN) -> Node:
    more = {"b": f"f32[{n}]", "x": f"{dtype}[{m},{n}]"}
    op = Gemm(body=code, dtypes=(dtype,), trans_b=True)
    return apply(op, f"{dtype}[{m},{k}]", f"{dtype}[{n},{k}]", *(more[name] for name in code.inputs[1:]))


def attend(batch: int, length: int, dtype: str = "bf16") -> Node:
    cache = f"{dtype}[{batch},12,{length},64]"
    return apply(AttentionCached(scale=0.125), f"{dtype}[{batch},12,1,64]", cache, cache, "i32[1]")


def append(batch: int) -> Node:
    caches, rows = [f"bf16[{batch},12,1024,64]"] * 2, [f"bf16[{batch},12,1,64]"] * 2
    return apply(Foreach(CacheAppend(), 2, 1), *caches, *rows, "i32[1]")


def call_of(node: Node, target: Target = HOPPER) -> Call:
    found = select(node, target)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("node", "template"),
    [
        (product("bf16", 1, 50304, 768), "gemv"),
        (product("f16", 64, 768, 3072), "gemv"),
        (product("bf16", 65, 768, 768), "matmul_sm90"),
        (product("bf16", 64, 50304, 768), "matmul_sm90"),
        (product("bf16", 1, 768, 100), "matmul"),
        (product("f32", 8, 768, 768), "gemv_f32"),
        (product("f32", 9, 768, 768), "matmul_f32"),
        (product("f32", 1, 768, 30), "matmul_f32"),
    ],
    ids=lambda x: x if isinstance(x, str) else str(x.results[0].type) + str(x.operands[0].type),
)
def test_products_of_few_rows(node: Node, template: str) -> None:
    assert call_of(node).kernel.template == template


def test_what_overlaps() -> None:
    """From sm_90 on, and only a weight or a position is asked for before the kernels before have ended."""
    planned = plan(Request(TINY, Options(target="cuda", precision="bf16", mode="infer"), (), 1, 16))
    (graph,) = (g for g in planned.graphs if g.name == "decode")
    calls = [call for node in graph.nodes if (call := select(node, HOPPER, graph.plan))]
    few = [call for call in calls if call.kernel.template in ("gemv", "attention_cached")]
    assert len(few) > 8
    assert all(call.kernel.params["early"] and call.kernel.params["overlap"] for call in few)
    assert all(call.kernel.params["overlap"] for call in calls if call.kernel.template == "row")
    assert calls[0].kernel.template == "embedding"  # waits for all that went before
    text = render_kernel(HOPPER, few[0].kernel, ["x"])
    assert text.index("load_piece(from") < text.index("gptc_await_previous") < text.index("load_element(e, (")
    unknown = [call_of(call.node).kernel.params for call in few]
    assert not any(params["early"] for params in unknown)
    older = [select(call.node, AMPERE, graph.plan) for call in few]
    assert not any(call is None or call.kernel.params["overlap"] for call in older)


NODES = (
    product("bf16", 1, 2304, 768, RESIDUAL),
    product("bf16", 1, 768, 3072, RESIDUAL),
    product("bf16", 1, 50304, 768),
    product("f16", 64, 2304, 768, RESIDUAL),
    product("bf16", 64, 768, 3072, RESIDUAL),
    product("f32", 1, 768, 3072, RESIDUAL),
    attend(1, 1024),
    attend(64, 1024),
    attend(1, 1024, "f32"),
    append(1),
)


def texts(nodes: Iterable[Node], target: Target) -> dict[str, str]:
    kernels = [call_of(node, target).kernel for node in nodes]
    return {kernel.name: render_kernel(target, kernel, [kernel.name]) for kernel in kernels}


@needs_nvcc
@pytest.mark.parametrize("target", [HOPPER, AMPERE], ids=lambda target: str(target.march))
def test_compiles_without_spills(target: Target, tmp_path: Path) -> None:
    found = texts(NODES, target)
    assert not [line for text in found.values() for line in untidy(text)]
    unit = "".join(f"namespace of_{name} {{\n{text}\n}}\n" for name, text in found.items())
    report = compile_kernel(tmp_path, f'#include "launch.cuh"\n{unit}', target.march.removeprefix("sm_"))
    assert report.spilled == 0
    assert not report.remarks
