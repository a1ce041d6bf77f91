"""Models of the Llama family (Touvron et al. 2023) as Hugging Face's transformers keeps them (LlamaForCausalLM).

Names and shapes of ours are those of models/llama-nano.yaml and models/smollm2-135m.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptc.errors import InputError
from gptc.runtime.checkpoint import WEIGHTS
from gptc.runtime.interop.gpt2 import MAX_LAYERS, Tensors
from gptc.runtime.interop.hub import CONFIG, positive, read_config, read_tensors, write_folder
from gptc.runtime.tensorfile import read_floats, write_tensors

MODEL_TYPE = "llama"
WORDS = {
    "wte": "model.embed_tokens", "h": "model.layers", "norm_1": "input_layernorm", "q": "self_attn.q_proj",
    "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "norm_2": "post_attention_layernorm",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "norm_f": "model.norm", "head": "lm_head",
}  # fmt: skip
"""A part of our names -> of theirs."""
SAME = {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,), "rope_scaling": (None,)}
HEAD = "lm_head.weight"
ROTARY = ".rotary_emb.inv_freq"
"""A buffer of older versions, which is no weight."""


@dataclass(frozen=True)
class Llama:
    """Sizes and constants, under the names of `config.json`."""

    vocab_size: int
    max_position_embeddings: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    hidden_size: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor and its shape, in the order of gptc's models."""
        c, f = self.hidden_size, self.intermediate_size
        queries, keys = (n * self.head_dim for n in (self.num_attention_heads, self.num_key_value_heads))
        block = {
            "norm_1": (c,), "q": (queries, c), "k": (keys, c), "v": (keys, c), "o": (c, queries), "norm_2": (c,),
            "gate": (f, c), "up": (f, c), "down": (c, f),
        }  # fmt: skip
        layers = range(self.num_hidden_layers)
        blocks = {f"h.{i}.{name}": shape for i in layers for name, shape in block.items()}
        head = {} if self.tie_word_embeddings else {"head": (self.vocab_size, c)}
        return {"wte": (self.vocab_size, c), **blocks, "norm_f": (c,), **head}

    def need_shapes(self, found: Mapping[str, tuple[int, ...]], where: Path) -> None:
        """Raise InputError unless `found` has these tensors and no others."""
        expected = self.shapes()
        for name in (*expected, *sorted(found.keys() - expected.keys())):
            if found.get(name) != expected.get(name):
                here, wanted = (_spelled(shapes.get(name)) for shapes in (found, expected))
                raise InputError.of(f"{where}: {name} is {here}; a Llama of these sizes has {wanted}")

    def need_same(self, model: Llama, where: Path, file: Path) -> None:
        """Raise InputError where `model`, which `file` declares, has other sizes or constants; T may be smaller."""
        for key, theirs in asdict(self).items():
            ours = getattr(model, key)
            if ours != theirs and not (key == "max_position_embeddings" and ours < theirs):
                raise InputError.of(f"{where / CONFIG}: {key} is {theirs}; {file} has {ours}")


def read_model(folder: Path) -> tuple[Llama, Tensors]:
    """What a folder holds, as f32 under our names.  Raises InputError for what is no Llama, or computes otherwise."""
    about = _llama(read_config(folder, MODEL_TYPE, SAME), folder)
    stored = {name: value for name, value in read_tensors(folder).items() if not name.endswith(ROTARY)}
    if about.tie_word_embeddings and HEAD in stored:
        head, embedding = stored.pop(HEAD), stored.get("model.embed_tokens.weight")
        if embedding is None or not np.array_equal(head, embedding):
            raise InputError.of(f"{folder}: {HEAD} is not the embedding, to which {CONFIG} ties it")
    known = {theirs: ours for ours, theirs in names(about.shapes()).items()}
    tensors = {known.get(name, name): value for name, value in stored.items()}
    about.need_shapes({name: value.shape for name, value in tensors.items()}, folder)
    return about, {name: tensors[name] for name in about.shapes()}


def write_model(folder: Path, about: Llama, tensors: Tensors, dtype: str = "f32") -> None:
    """Write the two files into `folder`, each whole or not at all."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": MODEL_TYPE, **{key: kept[0] for key, kept in SAME.items()},
        **asdict(about), "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    write_folder(folder, {theirs: tensors[ours] for ours, theirs in names(about.shapes()).items()}, config, dtype)


def read_weights(path: Path, about: Llama) -> Tensors:
    """The weights of such a model in a file that `gptc train` has written, or in a checkpoint's folder."""
    path = path / WEIGHTS if path.is_dir() else path
    found, _ = read_floats(path)
    about.need_shapes({name: value.shape for name, value in found.items()}, path)
    return found


def write_weights(path: Path, tensors: Tensors, model: str, dims: Mapping[str, int], tokenizer: str) -> None:
    """Write the file that `--weights` takes; it appears whole or not at all."""
    about = {"model": model, "dims": json.dumps(dims, sort_keys=True), "tokenizer": tokenizer, "step": "0"}
    write_tensors(path, tensors, about)


def names(ours: Iterable[str]) -> dict[str, str]:
    """Our name of each tensor -> theirs."""
    return {name: ".".join(WORDS.get(part, part) for part in name.split(".")) + ".weight" for name in ours}


def _llama(config: Mapping[str, Any], folder: Path) -> Llama:
    """Sizes and constants of a configuration, with transformers' defaults."""

    def size(key: str, default: int | None = None) -> int:
        return default if default is not None and config.get(key) is None else positive(config, key, folder)

    def constant(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise InputError.of(f"{folder / CONFIG}: {key} is {value!r}; expected a positive number")
        return float(value)

    heads, channels = size("num_attention_heads"), size("hidden_size")
    layers = size("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise InputError.of(f"{folder / CONFIG}: {layers} layers; at most {MAX_LAYERS} are read")
    rope = config.get("rope_parameters") or {}  # since transformers 5; before, `rope_theta` and `rope_scaling`
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise InputError.of(f"{folder / CONFIG}: rope_parameters are {rope!r}; gptc turns by unscaled positions")
    return Llama(
        size("vocab_size"), size("max_position_embeddings", 2048), layers, heads, size("num_key_value_heads", heads),
        channels, size("head_dim", max(1, channels // heads)), size("intermediate_size"),
        constant("rope_theta", rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        constant("rms_norm_eps", config.get("rms_norm_eps", 1e-6)), config.get("tie_word_embeddings") is True,
    )  # fmt: skip


def _spelled(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
