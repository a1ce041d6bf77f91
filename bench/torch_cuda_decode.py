"""The peer: GPT-2 124M in bf16 generating on a GPU in PyTorch, by torch.compile with autotuning and CUDA graphs.

    python -m bench.torch_cuda_decode --batch 64 --prompt 64 --tokens 254

Caches are tensors of their own at fixed addresses and every token's step has one shape, so that a step is one replayed
graph that changes them in place; the likeliest token stays on the device.  Prints one JSON object: for each repeat ms
of the prompt, and of a token after it as a mean.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.torch_gpt2 import GPT2, SIZES

SIZE = SIZES["gpt2-124m"]


class Decoder(GPT2):
    """The model that the training peer trains, token by token."""

    def step(self, ids: Tensor, at: Tensor, hidden: Tensor, caches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The likeliest tokens [B, 1] after `ids` [B, S], which stand at the positions `at` [S].

        `hidden` [T, T] is -inf where a position does not see another, else 0; keys and values are [B, H, T, D] each.
        """
        batch, count = ids.shape
        x = self.wte(ids) + self.wpe(at)
        for block, (keys, values) in zip(self.h, caches, strict=True):
            heads = block.qkv(block.ln_1(x)).view(batch, count, 3, block.heads, -1)
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            keys.index_copy_(2, at, k)
            values.index_copy_(2, at, v)
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=hidden[at])
            x = x + block.proj(y.transpose(1, 2).reshape(batch, count, SIZE.width))
            x = x + block.fc_proj(F.gelu(block.fc(block.ln_2(x)), approximate="tanh"))
        return F.linear(self.ln_f(x[:, -1:]), self.wte.weight).argmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=254)
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    torch.manual_seed(42)
    longest = options.prompt + options.tokens
    model = Decoder(SIZE).to("cuda", torch.bfloat16).eval()
    shape = (options.batch, SIZE.heads, longest, SIZE.width // SIZE.heads)
    narrow = {"dtype": torch.bfloat16, "device": "cuda"}
    caches = [(torch.zeros(shape, **narrow), torch.zeros(shape, **narrow)) for _ in range(SIZE.layers)]
    hidden = torch.full((longest, longest), -torch.inf, **narrow).triu(1)
    for tensor in (hidden, *(each for pair in caches for each in pair)):
        torch._dynamo.mark_static_address(tensor)  # type: ignore[attr-defined]
    ids = torch.randint(0, 50257, (options.batch, options.prompt), device="cuda")
    positions = [torch.tensor([i], device="cuda") for i in range(longest)]
    one = torch.compile(model.step, mode="max-autotune", fullgraph=True)
    prompts, tokens = [], []
    for _ in range(options.repeats + 3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        token = model.step(ids, torch.cat(positions[: options.prompt]), hidden, caches)
        torch.cuda.synchronize()
        ready = time.perf_counter()
        for at in positions[options.prompt :]:
            token = one(token.clone(), at, hidden, caches)
        torch.cuda.synchronize()
        prompts.append(1e3 * (ready - began))
        tokens.append(1e3 * (time.perf_counter() - ready) / options.tokens)
    print(json.dumps({"prompts": prompts[3:], "tokens": tokens[3:], "torch": torch.__version__}))


if __name__ == "__main__":
    with torch.no_grad():
        main()
