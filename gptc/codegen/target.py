"""Target c: what the compiler offers for the machine asked for, and the flags without which kernels go wrong."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache

from gptc.errors import InputError, ToolMissing
from gptc.options import Options

FLAGS = ("-std=gnu11", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
"""Flags that decide what kernels compute or whether their loops become vector code.

`-fno-math-errno -fno-trapping-math` change no value but let roots and selections vectorise.  Contraction is part of
the meaning.  `-ffast-math` would cancel the rounding steps of `gptc_exp` and give wrong numbers.
"""
WIDE = "-mprefer-vector-width=512"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
"""Emitted code compiles without a complaint."""

TILES = {16: (8, 48), 8: (4, 24), 4: (8, 12)}
"""Rows and columns of a matrix product's register tile, by floats in a vector register: measured."""
ATTENTION_ROWS = {16: 8, 8: 4, 4: 8}
"""Rows of a register tile of attention."""


@dataclass(frozen=True)
class Target:
    """A compiler and the instruction set it is asked for."""

    name: str
    compiler: str
    march: str
    vector: int
    """Floats in one vector register; a wider vector type would compile and crawl."""
    flags: tuple[str, ...]
    bf16: bool
    """Whether it multiplies bf16 (AVX512_BF16)."""

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a matrix product's register tile."""
        return TILES[self.vector]

    @property
    def attention_rows(self) -> int:
        return ATTENTION_ROWS[self.vector]


def target_for(options: Options) -> Target:
    """The target that `options` ask for; InputError or ToolMissing where it cannot be had."""
    target = describe(options.compiler, options.march)
    if options.precision == "bf16" and not target.bf16:
        message = f"-march={options.march} has no instruction that multiplies bf16 (AVX512_BF16)"
        raise InputError.of(message, None, "use --precision f32")
    return target


@cache
def describe(compiler: str, march: str) -> Target:
    """Ask the compiler once what vectors and instructions `-march=MARCH` has."""
    macros = _macros(compiler, f"-march={march}") if re.fullmatch(r"\w[\w.+-]*", march) else None
    if macros is None:
        if _macros(compiler) is None:
            raise ToolMissing.of(f"{compiler!r} is no working C compiler", None, "install gcc or clang")
        raise InputError.of(f"{compiler} knows no instruction set {march!r}", None, "`native` is this machine's")
    vector = _vector(macros)
    flags = [*FLAGS, f"-march={march}"]
    if vector == 16 and _macros(compiler, f"-march={march}", WIDE) is not None:
        flags.append(WIDE)
    return Target("c", compiler, march, vector, tuple(flags), vector == 16 and "__AVX512BF16__" in macros)


def _vector(macros: frozenset[str]) -> int:
    """Floats in a vector register: AVX-512 has 16, AVX2 has 8, SSE and NEON have 4."""
    if "__AVX512F__" in macros:
        return 16
    return 8 if "__AVX2__" in macros else 4


def _macros(compiler: str, *flags: str) -> frozenset[str] | None:
    """Names that the compiler predefines under `flags`; None if it refuses them."""
    try:
        argv = [*shlex.split(compiler), *flags, "-dM", "-E", "-"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return frozenset(line.split()[1].split("(")[0] for line in done.stdout.splitlines() if line.startswith("#define "))
