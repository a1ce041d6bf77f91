"""The matrix products and the attention of a training step on a GPU beside cuBLAS, FlashAttention-2 and cuDNN.

    python -m bench.cuda_products --out bench/results/products_h200.md

The calls are those of the step that gptc emits for the model: its kernels, sizes and strides, called one by one on
random data.  Each runs in turns with the library's, after the L2 cache has been written over, and its result is
compared with float32's.  A product with an epilogue is measured twice: the same sizes without it, by the kernel that
the step has for such products, and with it beside cuBLASLt, which then does the same.  Needs nvcc and torch with CUDA.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import cublaslt
from bench.peers import publish
from gptc.compiler import build_model, compile_model
from gptc.options import Options
from gptc.request import Request
from gptc.resources import models_dir

FORMS = {"nt": "forward", "nn": "dX", "tn": "dW"}
"""How A and B lie, in a kernel's name: n as it is multiplied, t transposed."""
DTYPES = {"bf16": torch.bfloat16, "float": torch.float32}
PEERS = {"FlashAttention-2": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
SWEEP = 1 << 30
"""Bytes that are written before each call: many times the L2 cache, and time for the host to queue the call."""
SCRATCH = 1 << 28
WARM_UP = 5
BOUND = 1e-2
"""Of a result's relative error in the Frobenius norm."""

Work = Callable[[], Any]


@dataclass(frozen=True)
class Emitted:
    """A kernel call as the emitted program makes it: its pointers' types by name, what they point to, its sizes."""

    kernel: str
    pointers: dict[str, str]
    operands: tuple[str, ...]
    sizes: dict[str, int]

    @property
    def product(self) -> tuple[str, str]:
        """The layer and the form of a matrix product."""
        found = (re.search(r"h_\d+_(\w+)_w(?:_bf16)?$", operand) for operand in self.operands)
        layer = next((match[1] for match in found if match), "head")
        return layer, FORMS[self.kernel.split("_")[1]]


def emitted_calls(folder: Path) -> list[Emitted]:
    """The products and attentions of the emitted step, in order."""
    header, program = (folder / name for name in ("include/kernels.h", "programs/step.c"))
    parameters = dict(re.findall(r"void (\w+)\(([^()]*)\);", header.read_text()))
    found = []
    for kernel, text in re.findall(r"\b((?:gemm|attention)_\w+)\(([^()]*)\);", program.read_text()):
        given = [argument.strip() for argument in text.split(",")]
        pointers, operands, sizes = {}, [], {}
        for parameter, argument in zip(parameters[kernel].split(","), given, strict=True):
            kind, name = parameter.strip().rsplit(" ", 1)
            if name.startswith("*"):
                pointers[name[1:]] = kind
                operands.append(argument)
            else:
                sizes[name] = int(argument)
        found.append(Emitted(kernel, pointers, tuple(operands), sizes))
    return found


class Kernels:
    """The emitted library on torch's stream."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        ctypes.c_void_p.in_dll(self.library, "gptc_stream").value = torch.cuda.current_stream().cuda_stream
        self.scratch = torch.empty(SCRATCH, dtype=torch.uint8, device="cuda")

    def work(self, call: Emitted, tensors: dict[str, torch.Tensor]) -> Work:
        """The call on these tensors, which must outlive it."""
        memory = {"scratch": self.scratch} | tensors
        pointers = [ctypes.c_void_p(memory[name].data_ptr()) for name in call.pointers]
        return partial(getattr(self.library, call.kernel), *pointers, *map(ctypes.c_int64, call.sizes.values()))


def in_turns(works: list[Work], repeats: int) -> list[float]:
    """The median ms of each, from events."""
    swept = torch.empty(SWEEP, dtype=torch.uint8, device="cuda")
    spans: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in works]
    for _ in range(WARM_UP + repeats):
        for work, span in zip(works, spans, strict=True):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            swept.zero_()
            first.record()
            work()
            last.record()
            span.append((first, last))
    torch.cuda.synchronize()
    return [statistics.median(first.elapsed_time(last) for first, last in span[WARM_UP:]) for span in spans]


def check(what: str, found: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative error in the Frobenius norm; the speed of a wrong result is worth nothing."""
    error = float((found.float() - expected).norm() / expected.norm())
    if not error < BOUND:
        sys.exit(f"{what}: the relative error is {error:.1e}")
    return error


@dataclass(frozen=True)
class Row:
    """A product that was measured, or one pass of attention: ms of gptc, then of each library."""

    what: str
    calls: int
    flops: int
    ms: list[float]
    error: float
    sizes: str = ""
    epilogue: str = ""

    def cells(self) -> str:
        """Ms, and each library's as a multiple of gptc's."""
        ours, *theirs = self.ms
        return " | ".join([f"{ours:.3f}", *(f"{ms:.3f} | {ms / ours:.2f}" for ms in theirs)])


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
        (_, form), (m, n, k) = call.product, (call.sizes[name] for name in "MNK")
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


def measure_product(call: Emitted, calls: int, kernels: Kernels, repeats: int) -> Row:
    """A product's kernel, one without an epilogue, beside `torch.mm`."""
    (layer, form), (m, n, k) = call.product, (call.sizes[name] for name in "MNK")
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
    (layer, form), (m, n, k) = call.product, (call.sizes[name] for name in "MNK")
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


def measure_attention(forward: Emitted, grad: Emitted, calls: int, kernels: Kernels, repeats: int) -> Iterator[Row]:
    """Both passes; the libraries get tensors that lie as gptc's do: q, k and v beside each other in one."""
    b, h, t, d = (forward.sizes[name] for name in "BHTD")

    def heads(names: str, fill: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
        parts = names.split()
        whole = fill((b, t, len(parts), h, d), dtype=torch.bfloat16, device="cuda")
        return {name: whole[:, :, index].transpose(1, 2) for index, name in enumerate(parts)}

    empty = partial(torch.full, fill_value=torch.nan)
    tensors = heads("q k v", torch.randn) | heads("dout", torch.randn) | heads("out", empty) | heads("dq dk dv", empty)
    for call in (forward, grad):
        for name in (name for name in call.pointers if name in tensors):
            strides = tuple(call.sizes[f"{name}_{axis}"] for axis in "bht")
            assert tensors[name].stride() == (*strides, 1), f"{call.kernel} gets {name} with strides {strides}"
    tensors["lse"] = torch.empty((b, h, t), device="cuda")
    inputs, dout = [tensors[name].detach().requires_grad_() for name in "qkv"], tensors["dout"]
    ours = [kernels.work(call, tensors) for call in (forward, grad)]
    for work in ours:
        work()
    forwards = [partial(attend, inputs, backend) for backend in PEERS.values()]
    outs = [work() for work in forwards]
    backwards = [partial(torch.autograd.grad, out, inputs, dout, retain_graph=True) for out in outs]

    exact = [x[:1].detach().float().requires_grad_() for x in inputs]  # of the first sequence: the others are alike
    out = attend(exact, SDPBackend.MATH)
    expected = [out.detach(), *torch.autograd.grad(out, exact, dout[:1].float())]
    for name, theirs, work in zip(PEERS, outs, backwards, strict=True):
        for x, y in zip([theirs.detach(), *work()], expected, strict=True):
            check(name, x[:1], y)
    errors = [check(name, tensors[name][:1], y) for name, y in zip(("out", "dq", "dk", "dv"), expected, strict=True)]
    flops = 2 * b * h * t * t * d  # two products, half of each hidden
    yield Row("forward", calls, flops, in_turns([ours[0], *forwards], repeats), errors[0])
    yield Row("backward", calls, 5 * flops // 2, in_turns([ours[1], *backwards], repeats), max(errors))


def attend(inputs: list[torch.Tensor], backend: SDPBackend) -> torch.Tensor:
    """Causal attention of q, k and v by one of torch's backends, and no other."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*inputs, is_causal=True)


def total(rows: list[Row]) -> Row:
    """All calls of a step."""
    calls, flops = sum(row.calls for row in rows), sum(row.calls * row.flops for row in rows)
    ms = [sum(row.calls * row.ms[i] for row in rows) for i in range(len(rows[0].ms))]
    return Row("a step", calls, flops, ms, max(row.error for row in rows))


def report(options: argparse.Namespace, folder: Path) -> list[str]:
    """The whole run as lines of Markdown."""
    chosen = Options(target="cuda", precision="bf16")
    request = Request(models_dir() / f"{options.model}.yaml", chosen, batch=options.batch, seq=options.seq)
    compiled = compile_model(request, folder)
    kernels = Kernels(build_model(compiled).library)
    products: dict[tuple[str, str], list[Emitted]] = {}
    attention: dict[bool, list[Emitted]] = {False: [], True: []}
    for call in emitted_calls(compiled.artefact.folder):
        if call.kernel.startswith("gemm"):
            products.setdefault(call.product, []).append(call)
        else:
            attention["_grad_" in call.kernel].append(call)
    (plain,) = products["head", "forward"]
    rows, fused = [], []
    for (_, form), (call, *others) in products.items():
        count = 1 + len(others)
        if form == "forward" and call.kernel != plain.kernel:
            fused.append(measure_epilogue(call, count, kernels, options.repeats))
            call = without_epilogue(call, plain)
        rows.append(measure_product(call, count, kernels, options.repeats))
    forward, backward = attention.values()
    passes = list(measure_attention(forward[0], backward[0], len(forward), kernels, options.repeats))
    rows, fused, passes = [*rows, total(rows)], [*fused, total(fused)], [*passes, total(passes)]
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
        *(f"| {row.what} | {row.calls} | {row.sizes} | {row.cells()} | {row.flops / row.ms[0] / 1e9:,.0f} |"
          for row in rows), "",
        "Those that the step makes with an epilogue, beside the fastest algorithm that cuBLASLt proposes for the same: "
        "its epilogues BIAS and GELU_AUX_BIAS, the residual as the matrix that is added. Errors are at most "
        f"{fused[-1].error:.1e}.", "",
        "| product | calls | epilogue | gptc | cuBLASLt | ratio | gptc, TFLOP/s |",
        "|---|---:|---|---:|---:|---:|---:|",
        *(f"| {row.what} | {row.calls} | {row.epilogue} | {row.cells()} | {row.flops / row.ms[0] / 1e9:,.0f} |"
          for row in fused), "",
        "Causal attention, as `scaled_dot_product_attention` with one backend or the other; q, k and v lie beside each "
        f"other in one tensor. Errors are at most {passes[-1].error:.1e}.", "",
        f"| attention | calls | gptc | {' | '.join(f'{name} | ratio' for name in PEERS)} | gptc, TFLOP/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(f"| {row.what} | {row.calls} | {row.cells()} | {row.flops / row.ms[0] / 1e9:,.0f} |" for row in passes),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="gpt2-124m")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(report(options, Path(folder))) + "\n"
    publish(text, options.out)


if __name__ == "__main__":
    main()
