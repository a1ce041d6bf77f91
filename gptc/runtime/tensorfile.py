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

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gptc.contracts import dtype_name

ALIGNMENT = 8  # of the first tensor, by spaces behind the header


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
