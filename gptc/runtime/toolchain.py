"""The C or CUDA compiler: which one, and everything about it and this machine that decides what it emits."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gptc.errors import ToolMissing
from gptc.resources import find_nvcc
from gptc.runtime.cache import Cache
from gptc.runtime.hashing import content_hash

# Variables that change what gcc and clang read or write, so they belong to the key of what was compiled.
ENVIRONMENT = (
    "CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX",
    "SDKROOT", "MACOSX_DEPLOYMENT_TARGET", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN",
)  # fmt: skip
CPU_FIELDS = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features",
)  # fmt: skip
VARIABLE = {"c": "CC", "cuda": "NVCC"}
"""Target -> the variable that names another compiler for it than the artefact does."""
INSTALL = {"c": "install gcc or clang", "cuda": "install NVIDIA's CUDA toolkit"}
MESSAGE_LINES = 6


@dataclass(frozen=True)
class Compiler:
    """A compiler that exists.  `argv` begins every command; `identity` changes whenever its output might."""

    argv: tuple[str, ...]
    identity: str

    def run(self, arguments: list[str], folder: Path) -> str | None:
        """Compile or link with `folder` as the working directory; the first lines of complaint, or None on success."""
        try:
            done = subprocess.run(
                [*self.argv, *arguments],
                cwd=folder, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", check=False,
            )  # fmt: skip
        except OSError as error:
            raise ToolMissing.of(f"cannot run {self.argv[0]}: {error.strerror}") from None
        if done.returncode == 0:
            return None
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return "\n  ".join(lines[:MESSAGE_LINES]) or f"exit status {done.returncode} without a message"


def find_compiler(chosen: str | None, emitted_for: str, cache: Cache, target: str = "c") -> Compiler:
    """The compiler asked for, else that of the target's variable, else the manifest's.

    Its version is asked once and then remembered by the identity of its binary, so that a build
    that finds everything in the cache runs no compiler at all.
    """
    command = chosen or os.environ.get(VARIABLE[target]) or emitted_for
    hint = f"{INSTALL[target]}, or name a compiler with the variable {VARIABLE[target]}"
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    path = find_nvcc(words[0]) if words else None
    if path is None:
        raise ToolMissing.of(f"no compiler for target {target}: {command!r} was not found", None, hint)
    path = os.path.abspath(path)  # it is run from the artefact's folder
    binaries = [found for word in words if (found := find_nvcc(word))]  # `ccache gcc` is two
    known = content_hash("compiler", words, [_binary_identity(binary) for binary in binaries])
    argv = (path, *words[1:])
    entry = cache.get(known) or cache.put(known, lambda folder: _store_version(argv, hint, folder))
    version = (entry / "version").read_text()
    variables = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return Compiler(argv, content_hash(known, version, variables))


def host_cpu() -> str:
    """What `-march=native` stands for on this machine."""
    try:
        block = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = (line.partition(":") for line in block.splitlines())
    return "\n".join(f"{name.strip()}={value.strip()}" for name, _, value in fields if name.strip() in CPU_FIELDS)


def cpu_name() -> str:
    """What its maker calls the processor; empty where the system does not tell."""
    fields = dict(line.partition("=")[::2] for line in host_cpu().splitlines())
    return fields.get("model name", "")


def _binary_identity(path: str) -> list[str | int]:
    status = os.stat(path)
    return [os.path.realpath(path), status.st_ino, status.st_size, status.st_mtime_ns]


def _store_version(argv: tuple[str, ...], hint: str, folder: Path) -> None:
    try:
        done = subprocess.run(
            [*argv, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissing.of(f"cannot run {argv[0]}: {error}", None, hint) from None
    if done.returncode != 0:
        raise ToolMissing.of(f"{' '.join(argv)} --version failed with status {done.returncode}", None, hint)
    (folder / "version").write_text(done.stdout)
