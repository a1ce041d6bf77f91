"""Files and folders that appear whole or not at all: written beside their place, flushed to the disk, then renamed.

What a checkpoint consists of is written by the system calls of this module and no others, so that a test can let
any one of them fail.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gptc.errors import StorageError

PIECE = 8 << 20
"""Bytes handed to the kernel at a time, and hashed while they are in the cache."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; what is written there replaces `path` when the block succeeds.

    When it fails, `path` is untouched and nothing stays behind.  An OSError becomes a StorageError.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot write: {error.strerror}", None, _hint(error)) from None
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(0o666 & ~umask())
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot write: {error.strerror or error}", None, _hint(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Written:
    """What a file holds: its length in bytes, and their SHA-256 in hex."""

    bytes: int
    sha256: str


def write_file(path: Path, parts: Iterable[memoryview | bytes]) -> Written:
    """Write the parts, one after another, to a new file or over an old one, and force them to the disk."""
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        for part in parts:
            for start in range(0, len(part), PIECE):
                piece = part[start : start + PIECE]
                _write_all(handle, piece)
                digest.update(piece)
                size += len(piece)
        os.fsync(handle)
    finally:
        os.close(handle)
    return Written(size, digest.hexdigest())


def _write_all(handle: int, piece: memoryview | bytes) -> None:
    """The kernel may take less than it was given: near a full disk, or when a signal came."""
    while piece:
        piece = piece[os.write(handle, piece) :]


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file, made if need be.  What the disk does not take whole is taken back."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(handle).st_size
        try:
            _write_all(handle, data)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """A folder and those above it, where they are not there yet.  An OSError becomes a StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot make this folder: {error.strerror}") from None


def fresh_folder(path: Path) -> None:
    """An empty folder, whatever was there before."""
    remove(path)
    os.mkdir(path)


def rename(path: Path, to: Path) -> None:
    os.rename(path, to)


def remove(path: Path) -> None:
    """Remove a folder with all that it holds, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """The process's; the system tells it only to those who set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _hint(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "create the folder first"
    return "free some space, or choose a folder that you may write to"
