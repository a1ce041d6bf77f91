"""GPT-2 as Hugging Face's transformers keeps it (GPT2LMHeadModel).

Its products are Conv1D, stored (in, out), so they are transposed; the head is not stored but tied to the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gptc.errors import InputError
from gptc.runtime.interop.gpt2 import EPSILON, MAX_LAYERS, Gpt2, Sizes, gpt2
from gptc.runtime.interop.hub import CONFIG, positive, read_config, read_tensors, write_folder

PREFIX = "transformer."
NAMES = {
    "ln_1": "ln_1", "qkv": "attn.c_attn", "proj": "attn.c_proj", "ln_2": "ln_2", "fc": "mlp.c_fc",
    "fc_proj": "mlp.c_proj",
}  # fmt: skip
TRANSPOSED = ("qkv", "proj", "fc", "fc_proj")
MASKS = (".attn.bias", ".attn.masked_bias")
"""Buffers of older versions: the causal mask, which is no weight."""
SAME = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (EPSILON,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
}  # fmt: skip


def read_model(folder: Path) -> Gpt2:
    """The weights as f32.  Raises InputError for a model that is not GPT-2, or a variant that computes otherwise."""
    sizes = _sizes(read_config(folder, "gpt2", SAME), folder)
    stored = read_tensors(folder)
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
    tensors = {
        PREFIX + theirs: model.tensors[ours].T if _is_transposed(ours) else model.tensors[ours]
        for ours, theirs in model.sizes.names(NAMES).items()
    }
    write_folder(folder, tensors, _config(model), dtype)


def _config(model: Gpt2) -> dict[str, Any]:
    sizes = model.sizes
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "vocab_size": sizes.vocab, "n_positions": sizes.positions, "n_ctx": sizes.positions, "n_embd": sizes.channels,
        "n_layer": sizes.layers, "n_head": sizes.heads, "n_inner": None, "layer_norm_epsilon": EPSILON,
        "tie_word_embeddings": True, "bos_token_id": sizes.vocab - 1, "eos_token_id": sizes.vocab - 1,
    }  # fmt: skip


def _is_transposed(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] == "w" and parts[-2] in TRANSPOSED


def _sizes(config: Mapping[str, Any], folder: Path) -> Sizes:
    keys = ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd")
    sizes = Sizes(*(positive(config, key, folder) for key in keys))
    if config.get("n_inner") not in (None, 4 * sizes.channels):
        message = f"n_inner is {config['n_inner']!r}; gptc's GPT-2 has {4 * sizes.channels}"
        raise InputError.of(f"{folder / CONFIG}: {message}")
    if sizes.layers > MAX_LAYERS:
        raise InputError.of(f"{folder / CONFIG}: {sizes.layers} layers; at most {MAX_LAYERS} are read")
    return sizes
