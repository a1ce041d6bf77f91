"""Open an artefact folder and check it, byte for byte, against its manifest.

Reads: the folder that the compiler emitted.  Leaves: an `Artefact`, whose every field can be trusted.
Does not: compile, load or change anything in the folder.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from gptc.errors import InputError, StorageError, did_you_mean
from gptc.runtime.manifest import REEMIT, Manifest, Program, Tensor, parse_manifest

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 64 << 20  # bytes; the largest real one, a 1558M model's, has some hundred KB


@dataclass(frozen=True)
class Artefact:
    """A checked artefact.  `folder` is absolute."""

    folder: Path
    manifest: Manifest

    def tensor(self, name: str) -> Tensor:
        """The parameter, state tensor or port of that name."""
        for tensor in self.manifest.tensors:
            if tensor.name == name:
                return tensor
        names = [tensor.name for tensor in self.manifest.tensors]
        raise InputError.of(f"{self.folder.name} has no tensor {name!r}", None, did_you_mean(name, names))

    def program(self, name: str) -> Program:
        """The program of that name."""
        for program in self.manifest.programs:
            if program.name == name:
                return program
        names = ", ".join(program.name for program in self.manifest.programs)
        raise InputError.of(f"{self.folder.name} has no program {name!r}", None, f"it has: {names}")

    def has_program(self, name: str) -> bool:
        return any(program.name == name for program in self.manifest.programs)


def open_artefact(folder: Path | str) -> Artefact:
    """The artefact in `folder`, verified.

    Raises InputError where the folder is no artefact, or one of another format or target;
    StorageError where a file is missing, unreadable, or not what the manifest says.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MANIFEST_LIMIT:
            raise StorageError.of(f"{path}: larger than {MANIFEST_LIMIT >> 20} MiB, not a manifest")
        text = path.read_bytes()
        folder = folder.resolve()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError.of(f"{folder}: not an artefact folder (no {MANIFEST})", None, "run gptc compile") from None
    except (OSError, ValueError) as error:
        raise StorageError.of(f"{path}: cannot read: {error}") from None
    manifest = parse_manifest(text, path)
    for name, digest in manifest.files.items():
        _check_file(folder, name, digest)
    return Artefact(folder, manifest)


def _check_file(folder: Path, name: str, digest: str) -> None:
    """`name` is a regular file inside `folder` (no link leads out of it) with this SHA-256."""
    path = folder / name
    try:
        if Path(os.path.realpath(path)) != path:
            raise StorageError.of(f"{path}: a link, where a file was emitted", None, REEMIT)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StorageError.of(f"{path}: cannot read: {error.strerror}", None, REEMIT) from None
    if found != digest:
        raise StorageError.of(f"{path}: changed since it was emitted", None, REEMIT, f"expected sha256 {digest}")
