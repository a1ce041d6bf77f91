"""A model's folder as on the Hugging Face Hub: `config.json` and safetensors, whole or in parts.

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
from gptc.runtime.interop.gpt2 import Tensors
from gptc.runtime.tensorfile import read_floats, write_tensors

CONFIG, MODEL, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
JSON_LIMIT = 16 << 20  # bytes
DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16)}
TORCH_NAMES = {"f32": "float32", "bf16": "bfloat16"}


def is_model(path: Path) -> bool:
    return path.is_dir() and (path / CONFIG).is_file()


def read_config(folder: Path, model_type: str, same: Mapping[str, tuple[object, ...]]) -> dict[str, Any]:
    """The configuration of a model of that type, which agrees with `same`.

    `same` has what must hold where the configuration says anything about it, transformers' default first.
    """
    path = folder / CONFIG
    config = _read_json(path)
    if config.get("model_type") != model_type:
        message = f"{path}: model_type is {config.get('model_type')!r}; expected {model_type!r}"
        raise InputError.of(message, None, "gptc imports gpt2 and, with --model, llama")
    for key, allowed in same.items():
        if config.get(key, allowed[0]) not in allowed:
            raise InputError.of(f"{path}: {key} is {config[key]!r}; gptc's {model_type} has {allowed[0]!r}")
    return config


def model_type(folder: Path) -> object:
    """What kind of model a folder's configuration says it is."""
    return _read_json(folder / CONFIG).get("model_type")


def positive(config: Mapping[str, Any], key: str, folder: Path) -> int:
    """A size."""
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise InputError.of(f"{folder / CONFIG}: {key} is {value!r}; expected a positive number")
    return value


def read_tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    """All tensors as f32, of one file or of those that an index names."""
    if not (folder / INDEX).is_file():
        if not (folder / MODEL).is_file():
            hint = "pickles are not read: save the model with safe_serialization=True"
            raise InputError.of(f"{folder}: no {MODEL}", None, hint)
        return read_floats(folder / MODEL)[0]
    places = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise InputError.of(f"{folder / INDEX}: no weight_map")
    found: dict[str, NDArray[np.float32]] = {}
    for name in sorted(set(places.values())):
        if os.path.basename(name) != name or not name.endswith(".safetensors"):
            raise InputError.of(f"{folder / INDEX}: {name!r} is not a file of this folder")
        found |= read_floats(folder / name)[0]
    return found


def write_folder(folder: Path, tensors: Tensors, config: Mapping[str, Any], dtype: str) -> None:
    """Write the two files into `folder`, each whole or not at all."""
    stored = {name: value.astype(DTYPES[dtype], copy=False) for name, value in tensors.items()}
    make_folder(folder)
    write_tensors(folder / MODEL, stored, {"format": "pt"})
    text = json.dumps({**config, "torch_dtype": TORCH_NAMES[dtype]}, indent=2)
    with replacing(folder / CONFIG) as temporary:
        write_file(temporary, [text.encode() + b"\n"])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bounded(path, JSON_LIMIT, "configuration"))
    except (ValueError, RecursionError) as error:
        raise InputError.of(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError.of(f"{path}: not a JSON object")
    return found
