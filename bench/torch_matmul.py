"""The peer of `matmul.py`: the same products in PyTorch (MKL and oneDNN), round by round when it is told to.

The first line on stdin is an object with `dtype`, `threads`, `tensors` (name -> shape) and `products` (names of A, B
and C, and whether A and B lie transposed).  Each further line asks for a round, whose seconds are printed as one list.
Needs only torch.
"""

from __future__ import annotations

import json
import sys
import time

import torch


def main() -> None:
    order = json.loads(sys.stdin.readline())
    torch.set_num_threads(order["threads"])
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[order["dtype"]]
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in order["tensors"].items()}
    print(json.dumps(torch.__version__), flush=True)
    for _ in sys.stdin:
        seconds = []
        for a, b, c, trans_a, trans_b in order["products"]:
            left = tensors[a].T if trans_a else tensors[a]
            right = tensors[b].T if trans_b else tensors[b]
            tensors[a].sum()  # as if just written by the kernel before
            began = time.perf_counter()
            torch.mm(left, right, out=tensors[c])
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
