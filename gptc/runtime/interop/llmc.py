"""Models and optimizer states of llm.c (`train_gpt2.cu`: gpt2_write_to_checkpoint, save_state).

Both begin with 256 little-endian int32.  A model is then 16 tensors, each over all blocks, in f32 (version 3) or
bf16 (version 5), the vocabulary padded with zeros; an optimizer state is the moments m and v in f32, in the same
order, the f32 master weights where there are any, and how the data is shuffled where it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, StorageError
from gptc.runtime.atomic import replacing, write_file
from gptc.runtime.interop.gpt2 import Gpt2, Sizes, Tensors, gpt2
from gptc.runtime.tensorfile import raw

HEADER_BYTES = 1024
MODEL_MAGIC, STATE_MAGIC, STATE_VERSION = 20240326, 20240527, 1
DTYPES = {3: np.dtype("<f4"), 5: np.dtype(ml_dtypes.bfloat16)}
VERSIONS = {"f32": 3, "bf16": 5}
ORDER = (
    "wte", "wpe", "ln_1.w", "ln_1.b", "qkv.w", "qkv.b", "proj.w", "proj.b", "ln_2.w", "ln_2.b", "fc.w", "fc.b",
    "fc_proj.w", "fc_proj.b", "ln_f.w", "ln_f.b",
)  # fmt: skip
SHUFFLE_BYTES = 2520  # mt19937_state of llm.c
PADDING = 128


def is_model(path: Path) -> bool:
    """Whether the file begins as a model of llm.c does."""
    with path.open("rb") as file:
        return file.read(4) == MODEL_MAGIC.to_bytes(4, "little")


def padded(vocab: int) -> int:
    return -(-vocab // PADDING) * PADDING


def read_model(path: Path) -> Gpt2:
    """The weights as f32.  Raises InputError unless header and size are exactly right and the padding is zero."""
    header, data = _open(path)
    magic, version, positions, vocab, layers, heads, channels, rows = map(int, header[:8])
    if magic != MODEL_MAGIC or version not in DTYPES:
        found = f"magic {magic}, version {version}; expected {MODEL_MAGIC}, version 3 (f32) or 5 (bf16)"
        raise InputError.of(f"{path}: not a model of llm.c ({found})")
    sizes = Sizes(vocab, positions, layers, heads, channels)
    if not (0 < vocab <= rows and min(positions, layers, heads, channels) > 0):
        raise InputError.of(f"{path}: impossible sizes: {sizes}, vocabulary padded to {rows}")
    dtype, count = DTYPES[version], parameter_count(sizes, rows)
    if data.size != count * dtype.itemsize:
        raise InputError.of(f"{path}: {data.size} bytes of weights; the header says {count * dtype.itemsize}")
    return gpt2(sizes, split(data.view(dtype), sizes, rows, path), None, path)


def rows_of(path: Path) -> int:
    """Rows of the padded vocabulary of a model that `read_model` has read."""
    return int(_open(path)[0][7])


def write_model(path: Path, model: Gpt2, dtype: str = "f32", rows: int | None = None) -> None:
    """Write version 3 (f32) or 5 (bf16, rounded to nearest), the vocabulary padded to `rows`."""
    sizes, rows = model.sizes, rows or padded(model.sizes.vocab)
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    version = VERSIONS[dtype]
    header[:8] = (MODEL_MAGIC, version, sizes.positions, sizes.vocab, sizes.layers, sizes.heads, sizes.channels, rows)
    with replacing(path) as temporary:
        body = (raw(part.astype(DTYPES[version], copy=False)) for part in join(model.tensors, sizes, rows))
        write_file(temporary, _chain(header, body))


@dataclass(frozen=True)
class State:
    """An optimizer state of one rank.  `m`, `v` and `master` are flat, in the order of the model's file."""

    ranks: int
    rank: int
    step: int
    rng: int
    rng_before: int
    shard: int
    sample: int
    m: NDArray[np.float32]
    v: NDArray[np.float32]
    master: NDArray[np.float32] | None
    shuffle: bytes | None
    """Order of shards and samples, and the generator; as they stand in the file."""


def read_state(path: Path, count: int) -> State:
    """The state beside a model of `count` parameters, padding included."""
    header, data = _open(path)
    wide = header.view("<u8")
    if (header[0], header[1]) != (STATE_MAGIC, STATE_VERSION):
        found = f"magic {header[0]}, version {header[1]}; expected {STATE_MAGIC}, {STATE_VERSION}"
        raise InputError.of(f"{path}: not an optimizer state of llm.c ({found})")
    if not (0 <= header[4] <= 1 and 0 <= header[5] <= 1):
        raise InputError.of(f"{path}: flags {header[4]}, {header[5]}; expected 0 or 1")
    masters, shuffles = bool(header[4]), bool(header[5])
    size = 4 * count * (3 if masters else 2)
    tail = data[size:].tobytes()
    if data.size < size or len(tail) != _shuffle_bytes(tail, shuffles):
        message = f"{path}: {data.size} bytes; a model of {count} parameters has {size} of moments"
        raise InputError.of(message, None, "the shares of several ranks (ZeRO) are not read")
    flat = data[:size].view("<f4").reshape(-1, count)
    return State(
        int(header[2]), int(header[3]), int(header[10]), int(wide[10]), int(wide[11]), int(wide[15]), int(wide[16]),
        flat[0], flat[1], flat[2] if masters else None, tail if shuffles else None,
    )  # fmt: skip


def write_state(path: Path, state: State) -> None:
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    wide = header.view("<u8")
    flags = state.master is not None, state.shuffle is not None
    header[:6] = (STATE_MAGIC, STATE_VERSION, state.ranks, state.rank, *flags)
    header[10] = state.step
    wide[10:12] = state.rng, state.rng_before
    wide[15:17] = state.shard, state.sample
    flat = [state.m, state.v, *([] if state.master is None else [state.master])]
    with replacing(path) as temporary:
        write_file(temporary, [header.tobytes(), *(raw(each) for each in flat), state.shuffle or b""])


def split(flat: NDArray[np.generic], sizes: Sizes, rows: int, path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of a flat file by their names, as f32; what pads the vocabulary must be zero."""
    tensors: dict[str, NDArray[np.float32]] = {}
    start = 0
    for kind in ORDER:
        shape, blocks = _shape(kind, sizes, rows)
        for name in blocks:
            stop = start + int(np.prod(shape))
            tensors[name] = flat[start:stop].reshape(shape).astype(np.float32, copy=False)
            start = stop
    if (tensors["wte"][sizes.vocab :].view(np.uint32) << 1).any():  # a zero of either sign; bits, for NaNs warn
        raise InputError.of(f"{path}: rows {sizes.vocab}..{rows - 1} of wte, which pad the vocabulary, are not zero")
    tensors["wte"] = tensors["wte"][: sizes.vocab]
    return tensors


def join(tensors: Tensors, sizes: Sizes, rows: int) -> Iterator[NDArray[np.float32]]:
    """The tensors in the order of a flat file, the vocabulary padded with zeros."""
    for kind in ORDER:
        for name in _shape(kind, sizes, rows)[1]:
            yield tensors[name]
            if name == "wte":
                yield np.zeros((rows - tensors[name].shape[0], sizes.channels), np.float32)


def _shape(kind: str, sizes: Sizes, rows: int) -> tuple[tuple[int, ...], list[str]]:
    """Shape of each tensor of a kind, and their names."""
    names = [kind] if kind in ("wte", "wpe", "ln_f.w", "ln_f.b") else [f"h.{i}.{kind}" for i in range(sizes.layers)]
    one = Sizes(rows, sizes.positions, 1, sizes.heads, sizes.channels).shapes()
    return one[kind] if len(names) == 1 and kind in one else one[f"h.0.{kind}"], names


def parameter_count(sizes: Sizes, rows: int) -> int:
    """Parameters, padding included; in Python's integers, which a header cannot overflow."""
    c, positions, layers = sizes.channels, sizes.positions, sizes.layers
    return rows * c + positions * c + layers * (12 * c * c + 13 * c) + 2 * c


def _open(path: Path) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The header, and the rest of the file, mapped."""
    try:
        if not path.is_file():
            raise InputError.of(f"{path}: no such file")
        size = os.path.getsize(path)
        if size < HEADER_BYTES + 1:
            raise InputError.of(f"{path}: {size} bytes, too short for a file of llm.c")
        data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise StorageError.of(f"{path}: cannot read: {error}") from None
    return np.array(data[:HEADER_BYTES]).view("<i4"), data[HEADER_BYTES:]


def _shuffle_bytes(tail: bytes, shuffles: bool) -> int:
    """The length that the description of the shuffle has by its own counts."""
    if not shuffles:
        return 0
    shards = int.from_bytes(tail[:8], "little")
    samples = int.from_bytes(tail[8 + 4 * shards : 16 + 4 * shards], "little")
    return 16 + 4 * shards + 4 * samples + SHUFFLE_BYTES


def _chain(header: NDArray[np.int32], body: Iterator[memoryview]) -> Iterator[memoryview | bytes]:
    yield header.tobytes()
    yield from body
