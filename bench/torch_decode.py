"""The peer: GPT-2 124M generating on the CPU in PyTorch, with caches of keys and values.

    python -m bench.torch_decode --dtype bfloat16 --prompt 256 --repeats 64

Prints one JSON object: the ms of each token after the prompt, and of the prompt itself.  Needs only torch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

V, T_MAX, LAYERS, HEADS, C = 50304, 1024, 12, 12, 768


class GPT2:
    """124M random parameters; `step` computes tokens at the positions from `start` on."""

    def __init__(self, dtype: torch.dtype, longest: int) -> None:
        def draw(*shape: int) -> Tensor:
            return (0.02 * torch.randn(shape)).to(dtype)

        sizes = {"qkv": (3 * C, C), "proj": (C, C), "fc": (4 * C, C), "fc_proj": (C, 4 * C)}
        self.wte, self.wpe = draw(V, C), draw(T_MAX, C)
        self.blocks = [{name: (draw(*size), draw(size[0])) for name, size in sizes.items()} for _ in range(LAYERS)]
        self.norm = torch.ones(C, dtype=dtype), torch.zeros(C, dtype=dtype)
        shape = (2, 1, HEADS, longest, C // HEADS)
        self.caches = [torch.zeros(shape, dtype=dtype) for _ in range(LAYERS)]

    def step(self, ids: Tensor, start: int) -> Tensor:
        """The logits after the last of `ids` [1, S]."""
        count = ids.shape[1]
        end = start + count
        x = self.wte[ids] + self.wpe[start:end]
        for block, cache in zip(self.blocks, self.caches, strict=True):
            a = F.layer_norm(x, (C,), *self.norm)
            q, k, v = F.linear(a, *block["qkv"]).view(1, count, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
            cache[0, :, :, start:end], cache[1, :, :, start:end] = k, v
            y = F.scaled_dot_product_attention(q, *cache[:, :, :, :end], is_causal=count > 1)
            x = x + F.linear(y.transpose(1, 2).reshape(1, count, C), *block["proj"])
            hidden = F.gelu(F.linear(F.layer_norm(x, (C,), *self.norm), *block["fc"]), approximate="tanh")
            x = x + F.linear(hidden, *block["fc_proj"])
        return F.linear(F.layer_norm(x[:, -1:], (C,), *self.norm), self.wte)


def ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(42)
    model = GPT2(getattr(torch, options.dtype), options.prompt + options.repeats + 2)
    ids = torch.randint(0, 50257, (1, options.prompt + options.repeats + 2))
    with torch.inference_mode():
        prefill = [ms(lambda: model.step(ids[:, : options.prompt], 0)) for _ in range(5)][2:]
        at = range(options.prompt, options.prompt + options.repeats + 2)
        times = [ms(lambda i=i: model.step(ids[:, i : i + 1], i)) for i in at][2:]
    print(json.dumps({"repeats": times, "prefill": prefill, "version": torch.__version__}))


if __name__ == "__main__":
    main()
