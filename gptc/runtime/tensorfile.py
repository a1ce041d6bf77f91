"""Tensors as a safetensors file, piece by piece.

The library's own writer wants every tensor in memory as bytes and orders the metadata differently in each process;
this one streams, and equal tensors are equal bytes.  Reading is the library's.
Format: u64 length of the header, the header as JSON, the tensors one after another.
https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open

from gptc.contracts import dtype_name
from gptc.errors import InputError, StorageError
from gptc.runtime.atomic import replacing, write_file

ALIGNMENT = 8  # of the first tensor, by spaces behind the header
FLOATS, OTHERS = ("F32", "F16", "BF16"), ("U8", "BOOL")
"""What is read as f32, and what stands in models beside their weights."""


@contextmanager
def open_tensors(path: Path, missing: str | None = None) -> Iterator[Any]:
    """A file to read from.  What is wrong with it is an InputError, what cannot be read a StorageError.

    `missing` is the hint where there is no such file.
    """
    try:
        if path.is_dir():
            raise InputError.of(f"{path} is a folder", None, "name the file of weights in it")
        if not path.is_file():
            raise InputError.of(f"{path}: no such file", None, missing)
        with safe_open(path, "numpy") as file:
            yield file
    except SafetensorError as error:
        raise InputError.of(f"{path}: not a valid safetensors file: {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise StorageError.of(f"{path}: cannot read: {error}") from None


def read_floats(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """All tensors of a file as f32, and its metadata."""
    with open_tensors(path) as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        if other := next((name for name, kind in kinds.items() if kind not in (*FLOATS, *OTHERS)), None):
            raise InputError.of(f"{path}: {other} is {kinds[other]}; expected F32, F16 or BF16")
        values = {name: file.get_tensor(name) for name, kind in kinds.items() if kind in FLOATS}
        about = dict(file.metadata() or {})
    return {name: value.astype(np.float32, copy=False) for name, value in values.items()}, about


def write_tensors(path: Path, tensors: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> None:
    """Write a file; it appears whole or not at all."""
    with replacing(path) as temporary:
        write_file(temporary, pieces(tensors, metadata))


def pieces(tensors: Mapping[str, NDArray[np.generic]], metadata: Mapping[str, str]) -> Iterator[memoryview | bytes]:
    """The file's bytes in order.  A tensor is copied only where it is not contiguous."""
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        dtype = dtype_name(tensor.dtype).upper()
        entries[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // ALIGNMENT) * ALIGNMENT)
    yield len(header).to_bytes(8, "little") + header
    for tensor in tensors.values():
        yield raw(tensor)


def raw(tensor: ArrayLike) -> memoryview:
    """The elements' bytes, last axis fastest."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
