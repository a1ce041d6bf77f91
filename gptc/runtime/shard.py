"""Token shards of llm.c for GPT-2: a header of 256 little-endian int32 (magic, version, count), then uint16 ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, StorageError
from gptc.runtime.atomic import replacing

MAGIC, VERSION = 20240520, 1
HEADER = np.dtype(("<i4", 256))
TOKEN = np.dtype("<u2")
MAX_TOKENS = (1 << 31) - 1


def is_shard(path: Path) -> bool:
    """Whether the file begins as a shard does, or calls itself one by its name (`.bin`)."""
    if path.suffix == ".bin":
        return True
    with path.open("rb") as file:
        return file.read(4) == MAGIC.to_bytes(4, "little")


def read_shard(path: Path) -> NDArray[np.uint16]:
    """The tokens, mapped from the file.  Raises InputError unless header and size are exactly right."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER.itemsize)
        if len(head) < HEADER.itemsize:
            raise InputError.of(f"{path}: {size} bytes, too short for the header of a token shard")
        magic, version, count = (int(value) for value in np.frombuffer(head, "<i4", 3))
        if (magic, version) != (MAGIC, VERSION):
            found = f"magic {magic}, version {version}; expected {MAGIC}, {VERSION}"
            hint = "a text file may have any name but *.bin"
            raise InputError.of(f"{path}: not a GPT-2 token shard ({found})", None, hint)
        expected = HEADER.itemsize + TOKEN.itemsize * count
        if count < 1 or size != expected:
            raise InputError.of(f"{path}: the header says {count} tokens, so {expected} bytes; the file has {size}")
        return np.memmap(path, TOKEN, "r", HEADER.itemsize, (count,))
    except (OSError, ValueError) as error:
        raise StorageError.of(f"{path}: cannot read: {error}") from None


def write_shard(path: Path, tokens: NDArray[np.integer]) -> None:
    """Write ids, all in 0..65535, so that the file appears whole or not at all."""
    if not 1 <= tokens.size <= MAX_TOKENS:
        raise InputError.of(f"{path}: {tokens.size} tokens; a shard holds 1 to {MAX_TOKENS}")
    if tokens.min() < 0 or tokens.max() > np.iinfo(TOKEN).max:
        raise InputError.of(f"{path}: token ids reach {tokens.min()}..{tokens.max()}; a shard holds 0..65535")
    header = np.zeros(256, "<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header.tobytes())
        tokens.astype(TOKEN, copy=False).tofile(file)
