"""Parameters in a safetensors file: the valid regions, under the manifest's names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gptc.errors import InputError
from gptc.runtime.manifest import Manifest
from gptc.runtime.model import Model
from gptc.runtime.store import store
from gptc.runtime.tensorfile import open_tensors, write_tensors

MISSING = "train the model first, or name its weights"


def save_weights(model: Model, path: Path, step: int) -> None:
    """Write all parameters; `path` is replaced whole or not at all.  `step` counts the updates they have seen."""
    manifest = model.artefact.manifest
    tensors = {param.name: np.asarray(model.valid(param)) for param in manifest.params}
    write_tensors(path, tensors, weights_metadata(manifest, step))


def weights_metadata(manifest: Manifest, step: int) -> dict[str, str]:
    """What a file of weights says about itself."""
    dims = json.dumps(manifest.dims, sort_keys=True)
    about = {"model": manifest.model, "tokenizer": manifest.tokenizer, "hash": manifest.hash, "dims": dims}
    return about | {"step": str(step)}


def load_weights(model: Model, path: Path) -> dict[str, str]:
    """Read all parameters into the model, and return the file's metadata.

    Everything is checked and read before the first value is written, so a failure leaves the model as it was.
    Raises InputError where the file is not of this model, StorageError where it cannot be read.
    """
    with open_tensors(path, MISSING) as file:
        metadata = dict(file.metadata() or {})
        _check_tokenizer(model, path, metadata)
        _check_tensors(model, path, {n: _signature(file.get_slice(n)) for n in file.keys()})  # noqa: SIM118
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for param in model.artefact.manifest.params:
        store(model, param, values[param.name])
    return metadata


def trained_length(path: Path) -> int | None:
    """Positions of the sequences that a file's weights were trained with, as far as it says so.

    Raises InputError and StorageError as `load_weights` does.
    """
    with open_tensors(path, MISSING) as file:
        about = file.metadata() or {}
    try:
        length = json.loads(about.get("dims", "{}")).get("T")
    except (ValueError, AttributeError, RecursionError):
        return None
    return length if type(length) is int and length > 0 else None


def _check_tokenizer(model: Model, path: Path, metadata: dict[str, str]) -> None:
    ours = model.artefact.manifest.tokenizer
    theirs = metadata.get("tokenizer", ours)
    if theirs != ours:
        raise InputError.of(f"{path}: trained with the tokenizer {theirs!r}; this model has {ours!r}")


Signature = tuple[str, tuple[int, ...]]


def _signature(part: object) -> Signature:
    """dtype, in the manifest's spelling, and shape of a tensor in a file."""
    return part.get_dtype().lower(), tuple(part.get_shape())  # type: ignore[attr-defined]


def _check_tensors(model: Model, path: Path, found: dict[str, Signature]) -> None:
    """The file has exactly the model's parameters."""
    params = model.artefact.manifest.params
    for param in params:
        expected = "f32" if param.scale else param.dtype, param.valid
        if param.name not in found:
            raise InputError.of(f"{path}: no tensor {param.name}, which {model.artefact.manifest.model} needs")
        if found[param.name] not in (expected, ("f32", param.valid), ("bf16", param.valid)):
            theirs, ours = _spell(found[param.name]), _spell(expected)
            raise InputError.of(f"{path}: {param.name} is {theirs}; {model.artefact.manifest.model} needs {ours}")
    if unknown := sorted(found.keys() - {param.name for param in params}):
        raise InputError.of(f"{path}: {unknown[0]} is no parameter of {model.artefact.manifest.model}")


def _spell(signature: Signature) -> str:
    dtype, shape = signature
    return f"{dtype}[{','.join(map(str, shape))}]"
