"""Renders kernel templates, compiles them into one library, and calls them with NumPy arrays."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "gcc")
FLAGS = ["-std=gnu11", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-fPIC", *os.environ.get("GPTC_TEST_CFLAGS", "").split()]
UNIT = 2.0**-24  # the rounding unit of f32
THREADS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Isa:
    """An instruction set: the floats in a vector register, the matmul tile that suits it, the flags that select it."""

    vec: int
    rows: int
    cols: int
    flags: tuple[str, ...]


def predefined(flag: str) -> str:
    """The macros that the compiler predefines under a flag."""
    return subprocess.run([CC, flag, "-dM", "-E", "-"], input="", capture_output=True, text=True, check=True).stdout


def instruction_sets() -> dict[str, Isa]:
    """Those this machine can run, by name, the widest first."""
    macros = predefined("-march=native")
    sets = {}
    if "__AVX512F__" in macros:
        sets["avx512"] = Isa(16, 8, 48, ("-march=native", "-mprefer-vector-width=512"))
    if "__AVX2__" in macros:
        sets["avx2"] = Isa(8, 4, 24, ("-march=x86-64-v3",))
    sets["narrow"] = Isa(4, 4, 12, ("-march=x86-64-v2",) if "__x86_64__" in macros else ("-march=native",))
    return sets


ISAS = instruction_sets()
WIDEST = next(iter(ISAS.values()))
BF16 = "avx512" in ISAS and "__AVX512BF16__" in predefined("-march=native")
"""Whether this machine multiplies bf16."""


def environment() -> jinja2.Environment:
    """The environment that templates/README.md prescribes."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **params: Any) -> str:
    """The C text of templates/c/<template>.c.j2."""
    return environment().get_template(f"c/{template}.c.j2").render(header=["made by a test"], **params)


class Library:
    """Kernels compiled together and loaded."""

    def __init__(
        self, folder: Path, isa: Isa, kernels: Mapping[str, tuple[str, Mapping[str, Any]]], extra: str = ""
    ) -> None:
        """`kernels`: function name -> (template, parameters).  `extra` is C source compiled beside them."""
        (folder / "support.h").write_text(environment().get_template("c/support.h.j2").render(VEC=isa.vec))
        sources = {name: render(template, name=name, **params) for name, (template, params) in kernels.items()}
        sources["extra"] = "#include <omp.h>\nvoid set_threads(int n) { omp_set_num_threads(n); }\n" + extra
        jobs = []
        for name, text in sources.items():
            (folder / f"{name}.c").write_text(text)
            command = [CC, *FLAGS, *isa.flags, "-c", f"{name}.c", "-o", f"{name}.o"]
            jobs.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True))
        errors = "".join(job.communicate()[1] for job in jobs)
        assert not any(job.returncode for job in jobs), errors
        objects = [f"{name}.o" for name in sources]
        subprocess.run([CC, *FLAGS, "-shared", *objects, "-o", "kernels.so", "-lm"], cwd=folder, check=True)
        self.library = ctypes.CDLL(str(folder / "kernels.so"))

    def call(self, name: str, *args: np.ndarray | int, threads: int = 2) -> None:
        """Call a kernel: arrays are passed as pointers, ints as int64_t."""
        self.library.set_threads(threads)
        getattr(self.library, name)(
            *(ctypes.c_int64(a) if isinstance(a, int) else ctypes.c_void_p(a.ctypes.data) for a in args)
        )

    def check_threads(
        self, name: str, operands: Sequence[np.ndarray], results: Sequence[np.ndarray], extents: Sequence[int]
    ) -> None:
        """Call with 1 to 4 threads from the same start; `results` must be equal bit for bit and are left filled."""
        start = [r.copy() for r in results]
        seen = []
        for threads in THREADS:
            for array, content in zip(results, start, strict=True):
                array[...] = content
            self.call(name, *operands, *results, *(int(n) for n in extents), threads=threads)
            seen.append([r.tobytes() for r in results])
        assert all(bits == seen[0] for bits in seen), f"{name}: the bits depend on the number of threads"


def assert_within(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray | float) -> None:
    """|actual - expected| <= bound, element by element; NaN fails."""
    excess = np.abs(actual.astype(np.float64) - expected) / np.maximum(bound, np.finfo(np.float32).tiny)
    assert np.all(excess <= 1), f"error is {np.max(excess):.3g} times its bound"
