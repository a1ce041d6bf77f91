"""GPT-2 as llama.cpp reads it: GGUF version 3, in f32, bf16 or q8_0, with the tokenizer.

A GGUF file is a header, keys with typed values, the names and places of the tensors, and the tensors, each at a
multiple of 32 bytes (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError
from gptc.runtime.atomic import replacing, write_file
from gptc.runtime.interop.gpt2 import EPSILON, Gpt2
from gptc.runtime.interop.merges import merges, spell
from gptc.runtime.tensorfile import raw
from gptc.runtime.tokenizer import Tokenizer, load_tokenizer

ALIGNMENT, BLOCK = 32, 32
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # types of values
KINDS = {"f32": 0, "q8_0": 8, "bf16": 30}  # types of tensors
FILE_TYPES = {"f32": 0, "q8_0": 7, "bf16": 32}
NORMAL, CONTROL = 1, 3  # types of tokens
Q8 = np.dtype([("scale", "<f2"), ("values", "i1", BLOCK)])
NAMES = {
    "wte": "token_embd", "wpe": "position_embd", "h": "blk", "ln_f": "output_norm",
    "ln_1": "attn_norm", "qkv": "attn_qkv", "proj": "attn_output", "ln_2": "ffn_norm", "fc": "ffn_up",
    "fc_proj": "ffn_down",
}  # fmt: skip
Value = int | float | bool | str | list[int] | list[str]


def write_model(path: Path, model: Gpt2, dtype: str = "f32") -> None:
    """Write matrices in `dtype`, the rest in f32.  Raises InputError where q8_0's blocks do not fit the rows."""
    if dtype == "q8_0" and model.sizes.channels % BLOCK:
        message = f"{path}: q8_0 needs rows of a multiple of {BLOCK}; this model has {model.sizes.channels} channels"
        raise InputError.of(message, None, "export f32 or bf16")
    if model.tokenizer is None:
        hint = "name it with --tokenizer"
        raise InputError.of(f"{path}: GGUF holds the tokenizer, and nobody said which these weights have", None, hint)
    tokenizer = load_tokenizer(model.tokenizer)
    if tokenizer.vocab_size > model.sizes.vocab:
        message = f"{tokenizer.vocab_size} tokens in {model.tokenizer}, {model.sizes.vocab} in the model"
        raise InputError.of(f"{path}: {message}")
    keys = _about(model, dtype) | _vocabulary(tokenizer, model.sizes.vocab)
    with replacing(path) as temporary:
        write_file(temporary, _pieces(keys, model, dtype))


def quantise(values: NDArray[np.float32]) -> NDArray[np.void]:
    """Blocks of 32 as int8 and one f16 scale, the largest over 127: ggml's quantize_row_q8_0."""
    blocks = values.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    out = np.empty(len(blocks), Q8)
    out["scale"] = scale[:, 0]
    out["values"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))  # halves away from zero
    return out


def _about(model: Gpt2, dtype: str) -> dict[str, tuple[int, Value]]:
    sizes = model.sizes
    numbers = {
        "gpt2.context_length": sizes.positions, "gpt2.embedding_length": sizes.channels,
        "gpt2.block_count": sizes.layers, "gpt2.feed_forward_length": 4 * sizes.channels,
        "gpt2.attention.head_count": sizes.heads, "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": 2,
    }  # fmt: skip
    return {
        "general.architecture": (STRING, "gpt2"),
        "general.name": (STRING, "gpt2"),
        **{key: (U32, value) for key, value in numbers.items()},
        "gpt2.attention.layer_norm_epsilon": (F32, EPSILON),
    }


def _vocabulary(tokenizer: Tokenizer, vocab: int) -> dict[str, tuple[int, Value]]:
    """llama.cpp's byte-pair tokenizer; a tokenizer of bytes is one without merges."""
    end = tokenizer.end_of_text
    tokens = [spell(token) for token in tokenizer.tokens]
    unused = range(len(tokens), vocab)
    tokens += [f"<|unused-{i}|>" for i in unused]
    if end is not None:
        tokens[end] = tokenizer.tokens[end].decode()
    kinds = [CONTROL if i == end or i in unused else NORMAL for i in range(vocab)]
    ranks = {token: i for i, token in enumerate(tokenizer.tokens) if i != end}
    pairs = [f"{spell(left)} {spell(right)}" for left, right in merges(ranks)]
    special = {f"tokenizer.ggml.{name}_token_id": (U32, end) for name in ("bos", "eos") if end is not None}
    return {
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (STRING, tokens),
        "tokenizer.ggml.token_type": (I32, kinds),
        "tokenizer.ggml.merges": (STRING, pairs),
        "tokenizer.ggml.add_bos_token": (BOOL, False),
        **special,
    }


def _pieces(keys: Mapping[str, tuple[int, Value]], model: Gpt2, dtype: str) -> Iterator[memoryview | bytes]:
    names = model.sizes.names(NAMES)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), len(keys))
    head += b"".join(_string(key) + _typed(*value) for key, value in keys.items())
    offset = 0
    for ours, theirs in names.items():
        shape, kind = model.tensors[ours].shape, _kind(ours, dtype)
        head += _string(theirs) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), KINDS[kind], offset)
        offset += _aligned(_nbytes(model.tensors[ours].size, kind))
    yield head.ljust(_aligned(len(head)), b"\0")
    for ours in names:
        data = raw(_stored(model.tensors[ours], _kind(ours, dtype)))
        yield data
        yield bytes(_aligned(len(data)) - len(data))


def _kind(name: str, dtype: str) -> str:
    """Matrices but the positions, which llama.cpp adds in f32."""
    parts = name.split(".")
    return dtype if name == "wte" or (parts[-1] == "w" and not parts[-2].startswith("ln_")) else "f32"


def _nbytes(count: int, kind: str) -> int:
    return {"f32": 4 * count, "bf16": 2 * count, "q8_0": count // BLOCK * Q8.itemsize}[kind]


def _stored(values: NDArray[np.float32], kind: str) -> NDArray[np.generic]:
    match kind:
        case "bf16":
            return values.astype(ml_dtypes.bfloat16)
        case "q8_0":
            return quantise(values)
        case _:
            return values


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(kind: int, value: Value) -> bytes:
    if isinstance(value, list):
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_plain(kind, each) for each in value)
    return struct.pack("<I", kind) + _plain(kind, value)


def _plain(kind: int, value: int | float | str) -> bytes:
    if isinstance(value, str):
        return _string(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)
