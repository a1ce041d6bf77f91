"""The peer: Llama training steps in PyTorch, as `torch_gpt2` makes GPT-2's.

    python -m bench.torch_llama --batch 1 --seq 512 --repeats 7 --precision bf16

Needs only torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.torch_gpt2 import main


@dataclass(frozen=True)
class Size:
    """Of a Llama: the vocabulary, layers, heads of queries and of keys, width, the MLP's width, theta."""

    vocabulary: int
    layers: int
    heads: int
    few: int
    width: int
    inner: int
    theta: float


SIZES = {"smollm2-135m": Size(49152, 30, 9, 3, 576, 1536, 100000.0)}


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size, self.head = size, size.width // size.heads
        self.norm_1, self.norm_2 = nn.RMSNorm(size.width, 1e-5), nn.RMSNorm(size.width, 1e-5)
        self.q = nn.Linear(size.width, size.heads * self.head, bias=False)
        self.k, self.v = (nn.Linear(size.width, size.few * self.head, bias=False) for _ in range(2))
        self.o = nn.Linear(size.heads * self.head, size.width, bias=False)
        self.gate, self.up = (nn.Linear(size.width, size.inner, bias=False) for _ in range(2))
        self.down = nn.Linear(size.inner, size.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        a = self.norm_1(x)
        q, k, v = (f(a).view(b, t, -1, self.head).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        m = self.norm_2(x)
        return x + self.down(F.silu(self.gate(m)) * self.up(m))


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads turned by their positions (Su et al. 2021), the first half of a head against the second."""
    first, second = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-second, first), -1) * sin.to(x.dtype)


class Llama(nn.Module):
    """Tied head; the angles of a sequence are computed once a step."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.vocabulary = size.vocabulary
        self.wte = nn.Embedding(size.vocabulary, size.width)
        self.h = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm_f = nn.RMSNorm(size.width, 1e-5)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        head = self.size.width // self.size.heads
        rates = self.size.theta ** (-torch.arange(0, head, 2, device=tokens.device) / head)
        angles = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * rates
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        x = self.wte(tokens)
        for block in self.h:
            x = block(x, cos, sin)
        logits = self.norm_f(x) @ self.wte.weight.T
        return F.cross_entropy(logits.view(-1, self.size.vocabulary), targets.reshape(-1))


if __name__ == "__main__":
    main({name: lambda size=size: Llama(size) for name, size in SIZES.items()})
