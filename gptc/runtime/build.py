"""Compile an artefact's units in parallel and link them into one shared library.

Every object and the library live in the cache, each under a key of all that decides its bytes; the artefact
folder itself is never written to.  A second build finds the library by its key and runs no compiler.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from gptc.errors import GptcError, InternalError, StorageError, ToolMissing
from gptc.runtime.artefact import Artefact
from gptc.runtime.cache import Cache
from gptc.runtime.calls import made_for
from gptc.runtime.hashing import content_hash
from gptc.runtime.toolchain import Compiler, find_compiler, host_cpu

INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)
OBJECT = "unit.o"
POSITION_INDEPENDENT = {"c": ("-fPIC",), "cuda": ()}  # nvcc has no such flag of its own: its flags pass it on


@dataclass(frozen=True)
class Built:
    """A library ready to load, and how many of its units had to be compiled for it."""

    library: Path
    compiled: int


def build(
    artefact: Artefact,
    compiler: str | None = None,
    cache: Cache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """The artefact's library, from the cache or compiled now.

    `compiler` is a command such as "clang"; `progress(done, total)` is called as objects become ready.
    Raises ToolMissing without a compiler (or its OpenMP), InternalError where emitted code does not compile,
    StorageError where the cache cannot be written.
    """
    cache = cache or Cache()
    spec = artefact.manifest.build
    cc = find_compiler(compiler, spec.compiler, cache, artefact.manifest.target)
    keys = {unit: _object_key(artefact, unit, cc) for unit in spec.units}
    key = content_hash("library", cc.identity, spec.flags, spec.libs, spec.library, sorted(keys.items()))
    if entry := cache.get(key):
        return Built(entry / spec.library, 0)
    objects, compiled = _compile_all(artefact, cc, keys, cache, progress)
    entry = cache.put(key, lambda folder: _link(artefact, cc, objects, folder))
    cache.trim()
    return Built(entry / spec.library, compiled)


def _compile_all(
    artefact: Artefact, cc: Compiler, keys: dict[str, str], cache: Cache, progress: Callable[[int, int], None] | None
) -> tuple[list[Path], int]:
    """Each unit's object in the units' order, and how many were compiled now.  The largest sources start first."""
    by_size = sorted(keys, key=lambda unit: (-(artefact.folder / unit).stat().st_size, unit))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        futures = {unit: pool.submit(_object, artefact, cc, unit, keys[unit], cache) for unit in by_size}
        for done, future in enumerate(as_completed(futures.values()), 1):
            if future.exception():
                break
            if progress:
                progress(done, len(futures))
    finally:  # also when interrupted: what has not begun never begins
        pool.shutdown(wait=True, cancel_futures=True)
    for unit in keys:  # of several failures, the first in the manifest's order is told
        if not futures[unit].cancelled() and (error := futures[unit].exception()):
            raise error
    results = [futures[unit].result() for unit in keys]
    return [entry / OBJECT for entry, _ in results], sum(new for _, new in results)


def _object(artefact: Artefact, cc: Compiler, unit: str, key: str, cache: Cache) -> tuple[Path, bool]:
    """The cache entry that holds the unit's object, and whether it was compiled now."""
    if entry := cache.get(key):
        return entry, False

    def compile_unit(folder: Path) -> None:
        if complaint := cc.run([*_compile_flags(artefact), unit, "-o", str(folder / OBJECT)], artefact.folder):
            raise _failure(f"{unit} does not compile", complaint, cc, artefact)

    return cache.put(key, compile_unit), True


def _link(artefact: Artefact, cc: Compiler, objects: list[Path], folder: Path) -> None:
    spec = artefact.manifest.build
    arguments = [*spec.flags, "-shared", "-o", str(folder / spec.library), *map(str, objects), *spec.libs]
    if complaint := cc.run(arguments, artefact.folder):
        raise _failure(f"{spec.library} does not link", complaint, cc, artefact)


def _compile_flags(artefact: Artefact) -> list[str]:
    return [*artefact.manifest.build.flags, *POSITION_INDEPENDENT[artefact.manifest.target], "-c"]


def _failure(what: str, complaint: str, cc: Compiler, artefact: Artefact) -> GptcError:
    """Emitted code must compile, so a failure is our bug, unless it is about the machine.  Where the compiler names a
    kernel, so does the error, with its ops and its line in the model file."""
    if "No space left on device" in complaint:
        return StorageError.of(f"{what}: the disk is full", None, "free some space in TMPDIR and in the cache")
    if re.search(r"omp\.h|cannot find -l\S*omp\b|library not found for -l\S*omp\b", complaint):
        hint = "install libomp (clang) or libgomp (gcc), or choose another compiler with CC"
        return ToolMissing.of(f"{what}: {cc.argv[0]} has no OpenMP", None, hint)
    if re.search(r"host compiler|unsupported (GNU|clang) version", complaint, re.IGNORECASE):
        hint = "nvcc needs a C++ compiler that it supports; the variable NVCC_CCBIN names one"
        return ToolMissing.of(f"{what} with {cc.argv[0]}", None, hint, complaint)
    kernels = [Path(name).stem for name in artefact.manifest.files if name.startswith("kernels/")]
    named = min((k for k in kernels if k in complaint), key=complaint.index, default="")
    span, ops = made_for(artefact, named) if named else (None, "")
    return InternalError.of(f"{what} with {cc.argv[0]}", span, None, *filter(None, (ops, complaint)))


def _object_key(artefact: Artefact, unit: str, cc: Compiler) -> str:
    """All that decides the object's bytes: the source, the artefact's headers it includes, the command, the machine."""
    digests, flags = artefact.manifest.files, _compile_flags(artefact)
    sources = {name: digests[name] for name in sorted(_closure(artefact, unit))}
    if "-g" not in flags:
        sources[unit] = _code_digest(artefact.folder / unit)
    cpu = host_cpu() if any(flag.endswith("=native") for flag in flags) else ""
    return content_hash("object", cc.identity, cpu, flags, unit, sources)


def _code_digest(path: Path) -> str:
    """Of a source without the comment that it begins with, which tells where a kernel is used and at which sizes.

    So the kernels of one model serve it at any batch size, and other models.  Line numbers are lost with that; only
    debug information has them.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    head = next((index for index, line in enumerate(lines) if not line.startswith(b"//")), len(lines))
    return hashlib.sha256(b"".join(lines[head:])).hexdigest()


def _closure(artefact: Artefact, unit: str) -> set[str]:
    """The unit and every file of the artefact that it includes in quotes, directly or not.

    A quoted name that is no file of the artefact is the system's, and part of the compiler's identity.
    """
    digests = artefact.manifest.files
    folders = [flag[2:] for flag in artefact.manifest.build.flags if flag.startswith("-I")]
    seen = {unit}
    todo = [unit]
    while todo:
        name = todo.pop()
        for found in INCLUDE.findall((artefact.folder / name).read_bytes()):
            target = found.decode(errors="replace")
            for folder in (posixpath.dirname(name), *folders):
                path = posixpath.normpath(posixpath.join(folder, target))
                if path in digests and path not in seen:
                    seen.add(path)
                    todo.append(path)
    return seen
