"""GPT-2 as Hugging Face's transformers keeps it: `config.json` and `model.safetensors` (GPT2LMHeadModel).

Its products are Conv1D, stored (in, out), so they are transposed; the head is not stored but tied to the embedding.
Pickles (`pytorch_model.bin`) are not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError
from gptc.runtime.atomic import make_folder, replacing, write_file
from gptc.runtime.bounded import read_bounded
from gptc.runtime.interop.gpt2 import EPSILON, MAX_LAYERS, Gpt2, Sizes, gpt2, read_safetensors
from gptc.runtime.tensorfile import pieces

CONFIG, MODEL, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
JSON_LIMIT = 16 << 20  # bytes
PREFIX = "transformer."
NAMES = {
    "ln_1": "ln_1", "qkv": "attn.c_attn", "proj": "attn.c_proj", "ln_2": "ln_2", "fc": "mlp.c_fc",
    "fc_proj": "mlp.c_proj",
}  # fmt: skip
TRANSPOSED = ("qkv", "proj", "fc", "fc_proj")
MASKS = (".attn.bias", ".attn.masked_bias")
"""Buffers of older versions: the causal mask, which is no weight."""
DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
TORCH_NAMES = {"f32": "float32", "bf16": "bfloat16"}


def is_model(path: Path) -> bool:
    return path.is_dir() and (path / CONFIG).is_file()


def read_model(folder: Path) -> Gpt2:
    """The weights as f32.  Raises InputError for a model that is not GPT-2, or a variant that computes otherwise."""
    sizes = _sizes(_read_json(folder / CONFIG), folder / CONFIG)
    stored = _read_tensors(folder)
    stored = {name.removeprefix(PREFIX): value for name, value in stored.items() if not name.endswith(MASKS)}
    head = stored.pop("lm_head.weight", None)
    if head is not None and not ("wte.weight" in stored and np.array_equal(head, stored["wte.weight"])):
        raise InputError.of(f"{folder}: its head is not its embedding; models/gpt2-*.yaml tie them")
    tensors, names = {}, {theirs: ours for ours, theirs in sizes.names(NAMES).items()}
    for name, value in stored.items():
        if name not in names:
            raise InputError.of(f"{folder}: {name} is no tensor of a GPT-2 of {sizes.layers} layers")
        tensors[names[name]] = value.T if _is_transposed(names[name]) else value
    return gpt2(sizes, tensors, None, folder)


def write_model(folder: Path, model: Gpt2, dtype: str = "f32") -> None:
    """Write the two files into `folder`, each whole or not at all."""
    tensors: dict[str, NDArray[Any]] = {}
    for ours, theirs in model.sizes.names(NAMES).items():
        value = model.tensors[ours].T if _is_transposed(ours) else model.tensors[ours]
        tensors[PREFIX + theirs] = value.astype(DTYPES[dtype], copy=False)
    make_folder(folder)
    with replacing(folder / MODEL) as temporary:
        write_file(temporary, pieces(tensors, {"format": "pt"}))
    with replacing(folder / CONFIG) as temporary:
        write_file(temporary, [json.dumps(_config(model, dtype), indent=2).encode() + b"\n"])


def _config(model: Gpt2, dtype: str) -> dict[str, Any]:
    sizes = model.sizes
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "vocab_size": sizes.vocab, "n_positions": sizes.positions, "n_ctx": sizes.positions, "n_embd": sizes.channels,
        "n_layer": sizes.layers, "n_head": sizes.heads, "n_inner": None, "layer_norm_epsilon": EPSILON,
        "tie_word_embeddings": True, "torch_dtype": TORCH_NAMES[dtype],
        "bos_token_id": sizes.vocab - 1, "eos_token_id": sizes.vocab - 1,
    }  # fmt: skip


def _is_transposed(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] == "w" and parts[-2] in TRANSPOSED


SAME = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (EPSILON,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
}  # fmt: skip
"""What must hold where the config says anything about it; the first value is transformers' default."""


def _sizes(config: Mapping[str, Any], path: Path) -> Sizes:
    if config.get("model_type") != "gpt2":
        raise InputError.of(f"{path}: model_type is {config.get('model_type')!r}; gptc imports gpt2")
    for key, allowed in SAME.items():
        if config.get(key, allowed[0]) not in allowed:
            raise InputError.of(f"{path}: {key} is {config[key]!r}; gptc's GPT-2 has {allowed[0]!r}")
    numbers = [_number(config, key, path) for key in ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")]
    sizes = Sizes(*numbers)
    if config.get("n_inner") not in (None, 4 * sizes.channels):
        raise InputError.of(f"{path}: n_inner is {config['n_inner']!r}; gptc's GPT-2 has {4 * sizes.channels}")
    if sizes.layers > MAX_LAYERS:
        raise InputError.of(f"{path}: {sizes.layers} layers; at most {MAX_LAYERS} are read")
    return sizes


def _number(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise InputError.of(f"{path}: {key} is {value!r}; expected a positive number")
    return value


def _read_tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Of one file, or of those that an index names."""
    if not (folder / INDEX).is_file():
        if not (folder / MODEL).is_file():
            hint = "pickles are not read: save the model with safe_serialization=True"
            raise InputError.of(f"{folder}: no {MODEL}", None, hint)
        return read_safetensors(folder / MODEL)[0]
    places = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError.of(f"{folder / INDEX}: no weight_map")
    found: dict[str, NDArray[np.float32]] = {}
    for name in sorted(set(places.values())):
        if os.path.basename(name) != name or not name.endswith(".safetensors"):
            raise InputError.of(f"{folder / INDEX}: {name!r} is not a file of this folder")
        found |= read_safetensors(folder / name)[0]
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bounded(path, JSON_LIMIT, "configuration"))
    except (ValueError, RecursionError) as error:
        raise InputError.of(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError.of(f"{path}: not a JSON object")
    return found
