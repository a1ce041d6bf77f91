"""Token shards of llm.c: a header of 256 little-endian int32 (magic, version, count), then the ids.

GPT-2's hold ids of 16 bits, LLaMA-3's of 32.  Offsets are of 64 bits: a shard may be larger than 2 GiB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, StorageError
from gptc.runtime.atomic import replacing
from gptc.runtime.hashing import file_hash

Ids = NDArray[np.uint16] | NDArray[np.uint32]
Reader = Callable[[int, int], Ids]
"""Ids number `at` to `at + n`, counted in the shard that was opened."""

HEADER = np.dtype(("<i4", 256))
MAX_TOKENS = (1 << 31) - 1
CHUNK_TOKENS = 1 << 22
"""How many are read at a time where all are read."""


@dataclass(frozen=True)
class Format:
    """One of the two kinds; `dtype` is that of an id."""

    name: str
    magic: int
    version: int
    dtype: np.dtype[Any]

    @property
    def max_id(self) -> int:
        return int(np.iinfo(self.dtype).max)

    def header(self, count: int) -> bytes:
        words = np.zeros(256, "<i4")
        words[:3] = self.magic, self.version, count
        return words.tobytes()


GPT2 = Format("GPT-2", 20240520, 1, np.dtype("<u2"))
LLAMA3 = Format("LLaMA-3", 20240801, 7, np.dtype("<u4"))
FORMATS = (GPT2, LLAMA3)


def format_for(vocab_size: int) -> Format:
    """The narrowest that holds every id of the vocabulary."""
    return GPT2 if vocab_size <= GPT2.max_id + 1 else LLAMA3


class Tokens(Protocol):
    """Where a loader reads from: `count` ids; they are number `start` and on of what has that name."""

    @property
    def name(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def count(self) -> int: ...

    def open(self) -> Reader: ...

    def part(self, start: int, stop: int) -> Tokens: ...

    def verify(self) -> None:
        """Compare the whole with its hash, where one is known.  Raises InputError."""


@dataclass(frozen=True)
class Memory:
    """Ids that are an array."""

    ids: Ids
    name: str = "tokens"
    start: int = 0

    @property
    def count(self) -> int:
        return len(self.ids)

    def open(self) -> Reader:
        return lambda at, n: self.ids[at : at + n]

    def part(self, start: int, stop: int) -> Memory:
        return Memory(self.ids[start:stop], self.name, self.start + start)

    def verify(self) -> None:
        pass


@dataclass(frozen=True)
class Shard:
    """Ids number `start` to `start + count` of a shard file."""

    path: Path
    format: Format
    start: int
    count: int
    sha256: str | None = None
    """Of the whole file, where a manifest tells it."""

    @property
    def name(self) -> str:
        return str(self.path)

    def part(self, start: int, stop: int) -> Shard:
        return replace(self, start=self.start + start, count=stop - start)

    def verify(self) -> None:
        try:
            found = file_hash(self.path) if self.sha256 else None
        except OSError as error:
            raise StorageError.of(f"{self.path}: cannot read: {error.strerror}") from None
        if found != self.sha256:
            message = f"{self.path}: damaged: sha256 {found}; the folder's manifest says {self.sha256}"
            raise InputError.of(message, None, "fetch or prepare it again; `gptc data verify` looks at all of a folder")

    def open(self) -> Reader:
        """A reader that keeps the file open for as long as it lives.

        It reads and does not map: of a file that is cut short meanwhile a page of the map would end the process.
        """
        file, dtype = _Descriptor(self.path), self.format.dtype

        def read(at: int, n: int) -> Ids:
            offset, size = HEADER.itemsize + (self.start + at) * dtype.itemsize, n * dtype.itemsize
            data = file.read(size, offset)
            if len(data) != size:
                raise StorageError.of(f"{self.path}: ends before byte {offset + size}; it was whole when it was opened")
            return np.frombuffer(data, dtype)

        return read


def chunks(tokens: Tokens) -> Iterator[Ids]:
    """All ids in order, some at a time."""
    read = tokens.open()
    for at in range(0, tokens.count, CHUNK_TOKENS):
        yield read(at, min(CHUNK_TOKENS, tokens.count - at))


def is_shard(path: Path) -> bool:
    """Whether the file begins as a shard does, or calls itself one by its name (`.bin`)."""
    if path.suffix == ".bin":
        return True
    with path.open("rb") as file:
        return file.read(4) in [form.magic.to_bytes(4, "little") for form in FORMATS]


def open_shard(path: Path) -> Shard:
    """The whole shard.  Raises InputError unless header and size are exactly right."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.itemsize)
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        raise StorageError.of(f"{path}: cannot read: {error}") from None
    if len(head) < HEADER.itemsize:
        raise InputError.of(f"{path}: {size} bytes, too short for the header of a token shard ({HEADER.itemsize})")
    magic, version, count = (int(value) for value in np.frombuffer(head, "<i4", 3))
    form = next((form for form in FORMATS if (form.magic, form.version) == (magic, version)), None)
    if form is None:
        known = " or ".join(f"{form.magic}, {form.version} ({form.name})" for form in FORMATS)
        hint = "a text file may have any name but *.bin"
        message = f"{path}: no token shard (magic {magic}, version {version}; expected {known})"
        raise InputError.of(message, None, hint)
    expected = HEADER.itemsize + form.dtype.itemsize * count
    if count < 1 or size != expected:
        raise InputError.of(f"{path}: the header says {count} tokens, so {expected} bytes; the file has {size}")
    return Shard(path, form, 0, count)


def write_shard(path: Path, ids: NDArray[np.integer], form: Format = GPT2) -> None:
    """Write ids so that the file appears whole or not at all."""
    if not 1 <= ids.size <= MAX_TOKENS:
        raise InputError.of(f"{path}: {ids.size} tokens; a shard holds 1 to {MAX_TOKENS}")
    if ids.min() < 0 or ids.max() > form.max_id:
        raise InputError.of(f"{path}: token ids reach {ids.min()}..{ids.max()}; a shard holds 0..{form.max_id}")
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(form.header(ids.size))
        file.write(encoded(ids, form))


def encoded(ids: NDArray[np.integer], form: Format) -> memoryview:
    """As they stand in the file.  (Not `tofile`, which keeps a full disk to itself.)"""
    return np.ascontiguousarray(ids, form.dtype).data


class _Descriptor:
    """An open file, closed with the last reference to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError.of(f"{path}: cannot read: {error.strerror}") from None

    def read(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._number, size, offset)
        except OSError as error:
            raise StorageError.of(f"{self.path}: cannot read: {error.strerror}") from None

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)
