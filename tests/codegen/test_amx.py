"""AMX: what a processor that has it gets, and that compilers take it.  What its kernels compute: tests/templates."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from gptc.codegen.render import cpu_headers, render, render_kernel
from gptc.codegen.select import select
from gptc.codegen.target import Target, describe
from gptc.errors import InputError
from gptc.ir.body import body
from gptc.ir.graph import Node
from gptc.ir.ops.attention import Attention, AttentionGrad
from gptc.ir.ops.region import Gemm
from tests.codegen.native import TARGET, apply, build

MARCH = "sapphirerapids"


def target_of(compiler: str, march: str) -> Target:
    try:
        return describe(compiler, march)
    except InputError:
        pytest.skip(f"{compiler} does not know {march}")


def product(dtype: str, rows: int, trans_a: bool = False) -> Node:
    """Forward, or the gradient of a weight."""
    op = Gemm(body=body("acc", "y", "y = neg(acc)"), dtypes=("f32",), trans_a=trans_a, trans_b=not trans_a)
    return apply(op, *([f"{dtype}[64,{rows}]"] if trans_a else [f"{dtype}[{rows},64]"]), f"{dtype}[64,64]")


def attention(dtype: str) -> list[Node]:
    heads, lse = f"{dtype}[1,2,33,16]", "f32[1,2,33]"
    forward = apply(Attention(scale=0.25, causal=True), heads, heads, heads)
    return [forward, apply(AttentionGrad(scale=0.25, causal=True), *[heads] * 5, lse)]


@pytest.mark.parametrize(("march", "amx"), [(MARCH, True), ("cooperlake", False), ("x86-64-v4", False)])
def test_the_target_knows(march: str, amx: bool) -> None:
    target = target_of(TARGET.compiler, march)
    assert target.amx == amx
    assert str(target).endswith(", bf16 instructions, AMX") == amx
    assert ("amx.h" in cpu_headers(target)) == amx


def test_products_of_bf16_use_it() -> None:
    """Those of floats, and of a few rows, which read memory once, do not."""
    target = target_of(TARGET.compiler, MARCH)
    nodes = [product("bf16", 64), product("bf16", 64, trans_a=True), product("bf16", 2), product("f32", 64)]
    nodes += attention("bf16") + attention("f32")
    calls = [select(node, target) for node in nodes]
    assert [call.kernel.template for call in calls if call] == [
        *("matmul_amx", "matmul_amx", "gemv", "matmul"),
        *("attention_amx", "attention_grad_amx", "attention", "attention_grad"),
    ]


@pytest.mark.parametrize("compiler", [TARGET.compiler, "clang"])
def test_what_is_emitted_compiles(compiler: str, tmp_path: Path) -> None:
    """With every warning an error; and a processor without tiles is told apart before a kernel runs on it."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    target = target_of(compiler, MARCH)
    assert target.amx
    nodes = [product("bf16", 64), product("bf16", 64, trans_a=True), *attention("bf16")]
    calls = [call for node in nodes if (call := select(node, target))]
    sources = {call.kernel.name: render_kernel(target, call.kernel, [call.kernel.name]) for call in calls}
    sources["host"] = render("c/program/host.c", features=(), amx=target.amx)
    (tmp_path / "host.h").write_text(render("c/program/host.h"))
    library = build(tmp_path, sources, target)
    library.gptc_missing.restype = ctypes.c_char_p
    assert library.gptc_missing() == (None if describe(TARGET.compiler, "native").amx else b"amx-bf16")
