"""The attention of a step on a GPU beside FlashAttention-2 and cuDNN; `bench.cuda_products` prints the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.cuda_alone import Emitted, Kernels, Row, check, in_turns, total

PEERS = {"FlashAttention-2": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}


def table(emitted: list[Emitted], kernels: Kernels, repeats: int) -> list[str]:
    """Both passes of a step's attention as lines of Markdown."""
    forward = [call for call in emitted if "_grad_" not in call.kernel]
    grad = next(call for call in emitted if "_grad_" in call.kernel)
    passes = list(measure_attention(forward[0], grad, len(forward), kernels, repeats))
    passes.append(total(passes))
    return [
        "Causal attention, as `scaled_dot_product_attention` with one backend or the other; q, k and v lie beside each "
        f"other in one tensor. Errors are at most {passes[-1].error:.1e}.", "",
        f"| attention | calls | gptc | {' | '.join(f'{name} | ratio' for name in PEERS)} | gptc, TFLOP/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(f"| {row.what} | {row.calls} | {row.cells()} | {row.tflops} |" for row in passes),
    ]  # fmt: skip


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
