"""The targets: what the compiler offers for the machine asked for, and the flags without which kernels go wrong."""

from __future__ import annotations

import os
import re
import shlex
import shutil
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


CUDA_FLAGS = ("-O3", "-Xcompiler=-fPIC", "-cudart=static")
"""Contraction, and division and roots that round correctly, are what nvcc does unless told otherwise."""
CUDA_FLOOR = "sm_80"
"""The oldest architecture that kernels are written for: what `native` stands for, since its code runs on later ones."""


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
    suffix: str = "c"
    """Of a kernel's source."""
    libs: tuple[str, ...] = ("-lm",)

    def template(self, base: str) -> str:
        """The name of a kernel's template without `.j2`, `row` -> `c/row.c`."""
        return f"{self.name}/{base}.{self.suffix}"

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a matrix product's register tile."""
        return TILES[self.vector]

    @property
    def attention_rows(self) -> int:
        return ATTENTION_ROWS[self.vector]


def target_for(options: Options) -> Target:
    """The target that `options` ask for; InputError or ToolMissing where it cannot be had."""
    cuda = options.target == "cuda"
    compiler = os.environ.get("NVCC", "nvcc") if cuda else options.compiler
    target = describe_cuda(compiler, options.march) if cuda else describe(compiler, options.march)
    if options.precision == "bf16" and not target.bf16:
        lacks = f"-march={options.march} has no instruction that multiplies bf16 (AVX512_BF16)"
        message = "target cuda has no kernels for bf16 operands" if cuda else lacks
        raise InputError.of(message, None, "use --precision f32")
    return target


@cache
def describe_cuda(compiler: str, march: str) -> Target:
    """Ask nvcc once whether it knows the architecture `march`, such as sm_90a."""
    if shutil.which(compiler) is None:
        hint = "install NVIDIA's CUDA toolkit, or name its compiler with the variable NVCC"
        raise ToolMissing.of(f"no CUDA compiler: {compiler!r} was not found", None, hint)
    known = _output([compiler, "--list-gpu-code"])
    if known is None:
        raise ToolMissing.of(f"{compiler!r} is no working CUDA compiler", None, "install NVIDIA's CUDA toolkit")
    arch = CUDA_FLOOR if march == "native" else march
    virtual = arch.replace("sm_", "compute_")
    code = f"-gencode=arch={virtual},code=[{arch},{virtual}]"
    # The list leaves out variants such as sm_90a, so the compiler is asked for what it would do.
    refused = _output([compiler, "--dryrun", code, "-x", "cu", "-c", os.devnull, "-o", os.devnull]) is None
    if refused or not re.fullmatch(r"sm_\d+[a-z]?", arch):
        raise InputError.of(f"{compiler} knows no architecture {march!r}", None, f"it knows {', '.join(known.split())}")
    return Target("cuda", compiler, arch, 4, (*CUDA_FLAGS, code), False, "cu")


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
    except ValueError:
        return None
    text = _output(argv)
    if text is None:
        return None
    return frozenset(line.split()[1].split("(")[0] for line in text.splitlines() if line.startswith("#define "))


def _output(argv: list[str]) -> str | None:
    """What a command prints; None if it fails."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
