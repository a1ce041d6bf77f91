"""The peer: one GPT-2 training step in PyTorch, float32 on the CPU.

    python bench/torch_gpt2.py --batch 4 --seq 64 --repeats 7

Prints one JSON object: the times of the repeats in ms, and the peak memory in bytes.  Needs only torch.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

V, T_MAX, LAYERS, HEADS, C = 50304, 1024, 12, 12, 768


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc, self.fc_proj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(b, t, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, C))
        return x + self.fc_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """124M parameters, tied head, vocabulary padded to a multiple of 128 as gptc pads it."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T_MAX, C)
        self.h = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.ln_f = nn.LayerNorm(C)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        logits = self.ln_f(self.h(x)) @ self.wte.weight.T
        return F.cross_entropy(logits.view(-1, V), targets.reshape(-1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(42)
    model = GPT2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    data = torch.randint(0, 50257, (options.batch, options.seq + 1))
    times: list[float] = []
    for _ in range(options.repeats + 2):  # two to warm up
        began = time.perf_counter()
        loss = model(data[:, :-1], data[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(1e3 * (time.perf_counter() - began))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"repeats": times[2:], "loss": loss.item(), "peak_rss": peak, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
