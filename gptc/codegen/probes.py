"""The sources of what measures a machine.  On a GPU a product is made by the kernel that products of bf16 get there."""

from __future__ import annotations

from dataclasses import dataclass

from gptc.codegen.kernel import Call
from gptc.codegen.program import wrap
from gptc.codegen.render import cuda_headers, render, render_kernel
from gptc.codegen.select import select
from gptc.codegen.target import Target
from gptc.ir.body import body
from gptc.ir.graph import Node, Value
from gptc.ir.ops.region import Gemm
from gptc.ir.types import DType, TensorType

SIDE = 8192
"""Rows and columns of the matrices: large enough that a product is as fast as it gets."""
SUMS = 8


@dataclass(frozen=True)
class GpuProbeSource:
    """Files by their path, and the sides of the matrices that `gptc_probe_product` takes."""

    files: dict[str, str]
    side: int


def cpu_probe(target: Target) -> str:
    """The probes for an instruction set."""
    cpu = target.instructions
    return render("c/probe.c", VEC=cpu.vector, SUMS=cpu.sums, bf16=target.bf16, amx=target.amx)


def gpu_probe(target: Target) -> GpuProbeSource:
    """The probes for an architecture."""
    call = _product(target)
    kernel = call.kernel
    parameters = [p.declared for p in kernel.signature]
    files = {
        **cuda_headers(),
        "device.cu": render("cuda/program/device.cu"),
        "product.cu": render_kernel(target, kernel, [f"{kernel.name}: a product, to see how fast it can be"]),
        "probe.cu": render(
            "cuda/probe.cu", SUMS=SUMS, product=kernel.name, sizes=[a for a in call.arguments if isinstance(a, int)],
            prototype=wrap(f'extern "C" void {kernel.name}(', parameters, ");"),
        ),
    }  # fmt: skip
    return GpuProbeSource(files, SIDE)


def _product(target: Target) -> Call:
    """y = a b', rounded to bf16."""
    kind = TensorType.of(DType.bf16, (SIDE, SIDE))
    op = Gemm(body=body("acc", "y", "y = round_bf16(acc)"), dtypes=("bf16",), trans_b=True)
    node = Node(op, (Value("a", kind), Value("b", kind)), (Value("y", kind),))
    call = select(node, target)
    assert call is not None
    assert call.scratch == 0
    return call
