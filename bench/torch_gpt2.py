"""The peer: GPT-2 training steps in PyTorch, float32 on the CPU or bfloat16 on a GPU unless told otherwise.

    python -m bench.torch_gpt2 --batch 4 --seq 64 --repeats 7 --precision bf16
    python -m bench.torch_gpt2 --batch 64 --seq 1024 --device cuda --compile

Prints one JSON object: the times of the repeats in ms, and the peak memory in bytes.  Needs only torch.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

V, T_MAX = 50304, 1024


@dataclass(frozen=True)
class Size:
    """Layers, heads and width of a GPT-2."""

    layers: int
    heads: int
    width: int


SIZES = {"gpt2-124m": Size(12, 12, 768), "gpt2-1558m": Size(48, 25, 1600)}


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        width, self.heads = size.width, size.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.fc_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.fc_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Tied head, vocabulary padded to a multiple of 128 as gptc pads it."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.vocabulary = 50257
        self.wte, self.wpe = nn.Embedding(V, size.width), nn.Embedding(T_MAX, size.width)
        self.h = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.ln_f = nn.LayerNorm(size.width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        logits = self.ln_f(self.h(x)) @ self.wte.weight.T
        return F.cross_entropy(logits.view(-1, V), targets.reshape(-1))


class Trainer:
    """A model with its optimizer: AdamW, the gradient clipped to 1.  Under bf16, products are by autocast."""

    def __init__(self, model: nn.Module, device: str, compiled: bool, lr: float = 1e-4, precision: str = "") -> None:
        self.device = device
        self.precision = precision or {"cpu": "f32", "cuda": "bf16"}[device]
        self.model = model.to(device)
        self.run = torch.compile(self.model) if compiled else self.model
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def step(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """One update; the loss before it."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.run(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def main(models: Mapping[str, Callable[[], nn.Module]]) -> None:
    """Time steps of one of the models, the first unless told otherwise; each has its `vocabulary`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=models, default=next(iter(models)))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="")
    options = parser.parse_args()
    torch.manual_seed(42)
    trainer = Trainer(models[options.model](), options.device, options.compile, precision=options.precision)
    data = torch.randint(0, trainer.model.vocabulary, (options.batch, options.seq + 1)).to(options.device)
    times: list[float] = []
    for _ in range(options.repeats + 2):  # two to warm up
        began = time.perf_counter()
        loss = trainer.step(data[:, :-1], data[:, 1:]).item()  # which awaits the device
        times.append(1e3 * (time.perf_counter() - began))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    device = torch.cuda.max_memory_allocated() if options.device == "cuda" else 0
    print(json.dumps({"repeats": times[2:], "loss": loss, "peak_rss": peak, "peak_device": device,
                      "torch": torch.__version__}))  # fmt: skip


if __name__ == "__main__":
    main({name: lambda size=size: GPT2(size) for name, size in SIZES.items()})
