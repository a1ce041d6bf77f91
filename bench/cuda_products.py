"""The matrix products and the attention of a training step on a GPU beside cuBLAS, FlashAttention-2 and cuDNN.

    python -m bench.cuda_products --out bench/results/products_h200.md

The calls are those of the step that gptc emits for the model: its kernels, sizes and strides, called one by one on
random data.  Each runs in turns with the library's, after the L2 cache has been written over, and its result is
compared with float32's.  A product with an epilogue is measured twice: the same sizes without it, by the kernel that
the step has for such products, and with it beside cuBLASLt, which then does the same.  Needs nvcc and torch with CUDA.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from bench import cublaslt, cuda_attention
from bench.cuda_alone import Emitted, Kernels, Row, check, compiled_step, emitted_calls, in_turns, run, total
from gptc.compiler import build_model

FORMS = {"nt": "forward", "nn": "dX", "tn": "dW"}
"""How A and B lie, in a kernel's name: n as it is multiplied, t transposed."""
DTYPES = {"bf16": torch.bfloat16, "float": torch.float32}


@dataclass(frozen=True)
class Operands:
    """A product's tensors, by the names of the kernel's arguments, and what it must give."""

    tensors: dict[str, torch.Tensor]
    results: list[torch.Tensor]
    bias: torch.Tensor | None
    residual: torch.Tensor | None
    gelu: bool

    @classmethod
    def of(cls, call: Emitted) -> Operands:
        """Random operands, and results full of NaN."""
        (_, form), (m, n, k) = named(call), (call.sizes[name] for name in "MNK")
        shapes = {"a": (k, m) if form == "dW" else (m, k), "b": (n, k) if form == "forward" else (k, n)}
        tensors, results, bias, residual = {}, [], None, None
        for name, kind in call.pointers.items():
            if kind == "void":
                continue
            dtype = DTYPES[kind.split()[-1]]
            if not kind.startswith("const"):
                tensors[name] = _nan((m, n), dtype)
                results.append(tensors[name])
            elif name in shapes:
                tensors[name] = torch.randn(shapes[name], device="cuda").to(dtype)
            elif dtype == torch.float32:
                # Of few digits, for a library that takes it in bf16.
                bias = tensors[name] = torch.randn(n, device="cuda").bfloat16().float()
            else:
                residual = tensors[name] = torch.randn((m, n), device="cuda").to(dtype)
        return cls(tensors, results, bias, residual, "_gelu_" in call.kernel)

    def factors(self, form: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Left and right, as they are multiplied."""
        a, b = self.tensors["a"], self.tensors["b"]
        return a.T if form == "dW" else a, b.T if form == "forward" else b

    def expected(self, form: str) -> list[torch.Tensor]:
        """In float32."""
        left, right = self.factors(form)
        sums = left.float() @ right.float()
        for x in (self.bias, self.residual):
            sums = sums if x is None else sums.add_(x)
        return [sums, F.gelu(sums, approximate="tanh")] if self.gelu else [sums]

    @property
    def epilogue(self) -> str:
        parts = [name for name in ("bias", "residual") if getattr(self, name) is not None]
        return ", ".join(parts + ["gelu, with and without stored"] * self.gelu)


def named(call: Emitted) -> tuple[str, str]:
    """The layer and the form of a matrix product."""
    found = (re.search(r"h_\d+_(\w+)_w(?:_bf16)?$", operand) for operand in call.operands)
    layer = next((match[1] for match in found if match), "head")
    return layer, FORMS[call.kernel.split("_")[1]]


def measure_product(call: Emitted, calls: int, kernels: Kernels, repeats: int) -> Row:
    """A product's kernel, one without an epilogue, beside `torch.mm`."""
    (layer, form), (m, n, k) = named(call), (call.sizes[name] for name in "MNK")
    what, operands = f"{layer} {form}", Operands.of(call)
    ours = kernels.work(call, operands.tensors)
    ours()
    (result,) = operands.results
    error = check(what, result, *operands.expected(form))
    wider = {"out_dtype": torch.float32} if result.dtype == torch.float32 else {}
    ms = in_turns([ours, partial(torch.mm, *operands.factors(form), **wider)], repeats)
    return Row(what, calls, 2 * m * n * k, ms, error, f"{m} x {n} x {k}")


def measure_epilogue(call: Emitted, calls: int, kernels: Kernels, repeats: int) -> Row:
    """A forward product with its epilogue beside the fastest of cuBLASLt's that does the same."""
    (layer, form), (m, n, k) = named(call), (call.sizes[name] for name in "MNK")
    what, operands = f"{layer} {form}", Operands.of(call)
    ours = kernels.work(call, operands.tensors)
    ours()
    expected = operands.expected(form)
    error = max(check(what, *pair) for pair in zip(operands.results, expected, strict=True))
    y, before = _nan((m, n), torch.bfloat16), _nan((m, n), torch.bfloat16) if operands.gelu else None
    bias = None if operands.bias is None else operands.bias.bfloat16()
    x, w = (operands.tensors[name] for name in "ab")
    theirs = cublaslt.forwards(x, w, y, bias, operands.residual, before)
    for each in theirs:
        y.fill_(torch.nan)
        each()
        check(f"cuBLASLt, {what}", y, expected[-1])
    if before is not None:
        check(f"cuBLASLt, {what} before gelu", before, expected[0])
    del expected
    first = in_turns(theirs, 3)
    ms = in_turns([ours, theirs[first.index(min(first))]], repeats)
    return Row(what, calls, 2 * m * n * k, ms, error, f"{m} x {n} x {k}", operands.epilogue)


def without_epilogue(call: Emitted, plain: Emitted) -> Emitted:
    """The product of a call alone, by the kernel of `plain`."""
    return replace(call, kernel=plain.kernel, pointers=plain.pointers)


def _nan(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.full(shape, torch.nan, dtype=dtype, device="cuda")


def measure_products(calls: list[Emitted], kernels: Kernels, repeats: int) -> tuple[list[Row], list[Row]]:
    """All products of a step alone, and those that have an epilogue with it; each list ends with its total."""
    products: dict[tuple[str, str], list[Emitted]] = {}
    for call in calls:
        products.setdefault(named(call), []).append(call)
    (plain,) = products["head", "forward"]
    rows, fused = [], []
    for (_, form), (call, *others) in products.items():
        count = 1 + len(others)
        if form == "forward" and call.kernel != plain.kernel:
            fused.append(measure_epilogue(call, count, kernels, repeats))
            call = without_epilogue(call, plain)
        rows.append(measure_product(call, count, kernels, repeats))
    return [*rows, total(rows)], [*fused, total(fused)]


def report(options: argparse.Namespace, folder: Path) -> list[str]:
    """The whole run as lines of Markdown."""
    compiled = compiled_step(options, folder)
    kernels = Kernels(build_model(compiled).library)
    calls = emitted_calls(compiled.artefact.folder)
    products = [call for call in calls if call.kernel.startswith("gemm")]
    rows, fused = measure_products(products, kernels, options.repeats)
    attention = cuda_attention.table([call for call in calls if call not in products], kernels, options.repeats)
    return [
        f"# {options.model}, bf16, B {options.batch}, T {options.seq}: products and attention beside the libraries, "
        f"{torch.cuda.get_device_name()}", "",
        f"`python -m bench.cuda_products {' '.join(sys.argv[1:])}`", "",
        f"Medians of {options.repeats} calls in turns, the L2 cache written over before each; ms of one call, in the "
        "last row of a table of all calls of a step. A ratio is the library's time by gptc's: above 1, gptc is faster. "
        f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}.", "",
        "Products alone. Results of forward and dX are bf16, of dW f32, on both sides. gptc's differ from float32's of "
        f"the same operands by at most {rows[-1].error:.1e} (Frobenius, relative).", "",
        "| product | calls | M x N x K | gptc | cuBLAS | ratio | gptc, TFLOP/s |", "|---|---:|---|---:|---:|---:|---:|",
        *(f"| {row.what} | {row.calls} | {row.sizes} | {row.cells()} | {row.tflops} |"
          for row in rows), "",
        "Those that the step makes with an epilogue, beside the fastest algorithm that cuBLASLt proposes for the same: "
        "its epilogues BIAS and GELU_AUX_BIAS, the residual as the matrix that is added. Errors are at most "
        f"{fused[-1].error:.1e}.", "",
        "| product | calls | epilogue | gptc | cuBLASLt | ratio | gptc, TFLOP/s |",
        "|---|---:|---|---:|---:|---:|---:|",
        *(f"| {row.what} | {row.calls} | {row.epilogue} | {row.cells()} | {row.tflops} |"
          for row in fused), "",
        *attention,
    ]  # fmt: skip


if __name__ == "__main__":
    run(report, 30)
