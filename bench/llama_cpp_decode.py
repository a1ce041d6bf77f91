"""The peer: GPT-2 124M generating on the CPU in llama.cpp, from a GGUF file of random weights made here once.

    python -m bench.llama_cpp_decode --weights q8_0 --prompt 256 --repeats 64

Prints one JSON object: the ms of each token after the prompt, and of the prompt itself.  Needs llama-cpp-python,
which builds llama.cpp for this machine, and gguf.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

V, T_MAX, LAYERS, HEADS, C = 50257, 1024, 12, 12, 768
KINDS = {
    "f32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
MATRICES = {"attn_qkv": (3 * C, C), "attn_output": (C, C), "ffn_up": (4 * C, C), "ffn_down": (C, 4 * C)}


def write(path: Path, weights: str) -> None:
    """A GGUF file whose matrices are of one kind, all else f32."""
    writer, rng = gguf.GGUFWriter(path, "gpt2"), np.random.default_rng(42)
    writer.add_context_length(T_MAX)
    writer.add_embedding_length(C)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(4 * C)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"token{i}" for i in range(V)])
    writer.add_token_types([gguf.TokenType.NORMAL] * V)
    writer.add_token_merges(["t o"])

    def matrix(name: str, shape: tuple[int, int]) -> None:
        values = 0.02 * rng.standard_normal(shape, np.float32)
        if weights == "f32":
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, KINDS[weights]), raw_dtype=KINDS[weights])

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(C, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(C, np.float32))

    matrix("token_embd.weight", (V, C))
    writer.add_tensor("position_embd.weight", 0.02 * rng.standard_normal((T_MAX, C), np.float32))
    norm("output_norm")
    for layer in range(LAYERS):
        for name, shape in MATRICES.items():
            matrix(f"blk.{layer}.{name}.weight", shape)
            writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(shape[0], np.float32))
        norm(f"blk.{layer}.attn_norm")
        norm(f"blk.{layer}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ms(model: llama_cpp.Llama, tokens: Sequence[int]) -> float:
    began = time.perf_counter()
    model.eval(tokens)
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", choices=tuple(KINDS), default="f32")
    parser.add_argument("--folder", type=Path, default=Path("build/peers"), help="where the file of weights is kept")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    path = options.folder / f"gpt2-124m-{options.weights}.gguf"
    if not path.exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        write(path, options.weights)
    ids = np.random.default_rng(42).integers(0, V, options.prompt + options.repeats + 2).tolist()
    threads = {"n_threads": options.threads, "n_threads_batch": options.threads}
    model = llama_cpp.Llama(str(path), n_ctx=len(ids), verbose=False, **threads)
    prefill = []
    for _ in range(5):
        model.reset()
        prefill.append(ms(model, ids[: options.prompt]))
    times = [ms(model, [token]) for token in ids[options.prompt :]]
    print(json.dumps({"repeats": times[2:], "prefill": prefill[2:], "version": llama_cpp.__version__}))


if __name__ == "__main__":
    main()
