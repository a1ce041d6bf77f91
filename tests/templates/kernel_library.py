"""Renders kernel templates, compiles them into one library, and calls them with NumPy arrays."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptc.codegen.render import cpu_headers, environment
from gptc.codegen.target import Target, describe
from gptc.errors import InputError
from tests.conftest import WARNINGS

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "gcc")
FLAGS = [*WARNINGS, "-fPIC", *os.environ.get("GPTC_TEST_CFLAGS", "").split()]
UNIT = 2.0**-24  # the rounding unit of f32
THREADS = (1, 2, 3, 4)
TILE = 16  # rows of a matrix register of AMX, and floats of one


def targets() -> dict[str, Target]:
    """Those that this machine can run, by their instruction set, the widest vectors first."""
    native = describe(CC, "native")
    found = {}
    for march in ("native", "x86-64-v3", "x86-64-v2"):
        try:
            target = describe(CC, march)
        except InputError:
            continue  # of another architecture
        if set(target.features) <= set(native.features):
            found.setdefault(target.instructions.name.lower().replace("-", ""), target)
    return found


TARGETS = targets()
WIDEST = next(iter(TARGETS.values()))
BF16 = WIDEST.bf16
"""Whether this machine multiplies bf16."""


def headers(target: Target) -> dict[str, str]:
    """Those that kernels include, with the words of AMX in plain C where the target lacks it."""
    amx = {} if target.amx else {"amx.h": Path(__file__).with_name("amx_in_software.h").read_text()}
    return cpu_headers(target) | amx


def render(template: str, **params: Any) -> str:
    """The C text of templates/c/<template>.c.j2."""
    return environment().get_template(f"c/{template}.c.j2").render(header=["made by a test"], **params)


class Library:
    """Kernels compiled together and loaded."""

    def __init__(
        self, folder: Path, target: Target, kernels: Mapping[str, tuple[str, Mapping[str, Any]]], extra: str = ""
    ) -> None:
        """`kernels`: function name -> (template, parameters).  `extra` is C source compiled beside them."""
        for name, text in headers(target).items():
            (folder / name).write_text(text)
        sources = {name: render(template, name=name, **params) for name, (template, params) in kernels.items()}
        if not target.amx:
            sources["amx"] = '#define AMX_IN_SOFTWARE\n#include "amx.h"\n'
        sources["extra"] = "#include <omp.h>\nvoid set_threads(int n) { omp_set_num_threads(n); }\n" + extra
        jobs = []
        # What users run is tested as it is built for them; of narrower vectors the numbers, not the speed.
        flags = [*target.flags, *([] if target is WIDEST else ["-O1"]), *FLAGS]
        for name, text in sources.items():
            (folder / f"{name}.c").write_text(text)
            command = [CC, *flags, "-c", f"{name}.c", "-o", f"{name}.o"]
            jobs.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True))
        errors = "".join(job.communicate()[1] for job in jobs)
        assert not any(job.returncode for job in jobs), errors
        objects = [f"{name}.o" for name in sources]
        command = [CC, *flags, "-shared", *objects, "-o", "kernels.so", "-lm"]
        subprocess.run(command, cwd=folder, check=True)
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
