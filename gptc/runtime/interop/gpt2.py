"""The weights of a GPT-2 of any size, under the names of gptc's own models: what every format is read into.

Products are (out, in), the vocabulary has no padding, the head is the embedding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError
from gptc.runtime.checkpoint import WEIGHTS
from gptc.runtime.tensorfile import read_floats, write_tensors

Tensors = Mapping[str, NDArray[np.float32]]
GPT2_VOCAB = 50257
MAX_LAYERS = 10_000
EPSILON = 1e-5
"""Of its layer norms."""


@dataclass(frozen=True)
class Sizes:
    """V tokens, T positions, L blocks, H heads, C channels."""

    vocab: int
    positions: int
    layers: int
    heads: int
    channels: int

    @property
    def dims(self) -> dict[str, int]:
        """As gptc's models name them."""
        return {"V": self.vocab, "T": self.positions, "L": self.layers, "H": self.heads, "C": self.channels}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor and its shape, in the order of gptc's models."""
        c = self.channels
        block = {
            "ln_1.w": (c,), "ln_1.b": (c,), "qkv.w": (3 * c, c), "qkv.b": (3 * c,), "proj.w": (c, c), "proj.b": (c,),
            "ln_2.w": (c,), "ln_2.b": (c,), "fc.w": (4 * c, c), "fc.b": (4 * c,), "fc_proj.w": (c, 4 * c),
            "fc_proj.b": (c,),
        }  # fmt: skip
        blocks = {f"h.{i}.{name}": shape for i in range(self.layers) for name, shape in block.items()}
        return {"wte": (self.vocab, c), "wpe": (self.positions, c), **blocks, "ln_f.w": (c,), "ln_f.b": (c,)}

    def names(self, words: Mapping[str, str]) -> dict[str, str]:
        """Every tensor, in that order, and its name in a format that has other `words` for the parts of ours."""
        words = {"w": "weight", "b": "bias", **words}
        full = {name: name if "." in name else f"{name}.w" for name in self.shapes()}
        return {name: ".".join(words.get(part, part) for part in text.split(".")) for name, text in full.items()}


@dataclass(frozen=True)
class Gpt2:
    """`tensors` has exactly the names and shapes of `sizes`; `tokenizer` is None where nobody has said it."""

    sizes: Sizes
    tensors: Tensors
    tokenizer: str | None
    step: int = 0


def gpt2(sizes: Sizes, tensors: Tensors, tokenizer: str | None, where: Path, step: int = 0) -> Gpt2:
    """Check names and shapes; `where` is the file that messages name."""
    if min(sizes.vocab, sizes.positions, sizes.layers, sizes.heads, sizes.channels) < 1 or sizes.layers > MAX_LAYERS:
        raise InputError.of(f"{where}: impossible sizes: {sizes}")
    if sizes.channels % sizes.heads:
        raise InputError.of(f"{where}: {sizes.channels} channels do not divide into {sizes.heads} heads")
    expected = sizes.shapes()
    for name, shape in expected.items():
        found = tensors[name].shape if name in tensors else None
        if found != shape:
            raise InputError.of(f"{where}: {name} is {list(found) if found else 'missing'}; a GPT-2 has {list(shape)}")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise InputError.of(f"{where}: {unknown[0]} is no tensor of a GPT-2")
    tokenizer = tokenizer or ("gpt2" if sizes.vocab == GPT2_VOCAB else None)
    return Gpt2(sizes, {name: tensors[name] for name in expected}, tokenizer, step)


def read_weights(path: Path) -> Gpt2:
    """The weights in a file that `gptc train` has written, or in a checkpoint's folder."""
    path = path / WEIGHTS if path.is_dir() else path
    found, about = read_floats(path)
    if "wte" not in found or "wpe" not in found or found["wte"].ndim != 2 or found["wpe"].ndim != 2:
        hint = "these formats hold GPT-2 with the parameters of models/gpt2-124m.yaml; a Llama is written with --model"
        raise InputError.of(f"{path}: no GPT-2: it has no matrices wte and wpe", None, hint)
    layers = len({name.split(".")[1] for name in found if name.startswith("h.") and name.count(".") > 1})
    heads, step = _stated(about, path)
    (vocab, channels), positions = found["wte"].shape, found["wpe"].shape[0]
    return gpt2(Sizes(vocab, positions, layers, heads, channels), found, about.get("tokenizer"), path, step)


def _stated(about: Mapping[str, str], path: Path) -> tuple[int, int]:
    """Heads and step, which the shapes do not tell."""
    try:
        heads, step = json.loads(about["dims"])["H"], int(about.get("step", "0"))
        if type(heads) is not int or step < 0:
            raise ValueError
    except (KeyError, ValueError, TypeError, RecursionError):
        hint = "train or import the weights again with this version of gptc"
        raise InputError.of(f"{path}: does not say how many heads the model has", None, hint) from None
    return heads, step


def write_weights(path: Path, model: Gpt2) -> None:
    """Write the file that `--weights` takes; it appears whole or not at all."""
    write_tensors(path, model.tensors, metadata(model))


def metadata(model: Gpt2) -> dict[str, str]:
    """What a file of weights says about itself."""
    about = {"model": "gpt2", "dims": json.dumps(model.sizes.dims), "step": str(model.step)}
    return about | ({"tokenizer": model.tokenizer} if model.tokenizer else {})
