"""Renders kernel templates, compiles them into one library, and calls them with NumPy arrays."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

ROOT = Path(__file__).parents[2]
CC = os.environ.get("CC", "gcc")
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-mprefer-vector-width=512",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
]
EPS = float(np.finfo(np.float32).eps) / 2  # the rounding unit of f32
THREADS = (1, 2, 3)


def vector_width() -> int:
    """Floats in one vector register of this machine, as the compiler sees it."""
    macros = subprocess.run(
        [CC, "-march=native", "-dM", "-E", "-"], input="", capture_output=True, text=True, check=True
    )
    if "__AVX512F__" in macros.stdout:
        return 16
    return 8 if "__AVX2__" in macros.stdout else 4


def environment() -> jinja2.Environment:
    """The environment that templates/README.md prescribes."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


class Library:
    """Kernels compiled together.  `call` takes arrays (pointers), ints (int64_t) in the order of the C arguments."""

    def __init__(self, folder: Path, kernels: Mapping[str, tuple[str, Mapping[str, Any]]], extra: str = "") -> None:
        """`kernels`: name -> (template, parameters).  `extra` is C source compiled beside them."""
        jinja = environment()
        (folder / "support.h").write_text(jinja.get_template("c/support.h.j2").render(VEC=vector_width()))
        sources = []
        for name, (template, params) in kernels.items():
            text = jinja.get_template(f"c/{template}.c.j2").render(name=name, header=[f"{name}: a test"], **params)
            (folder / f"{name}.c").write_text(text)
            sources.append(f"{name}.c")
        if extra:
            (folder / "extra.c").write_text(extra)
            sources.append("extra.c")
        objects = [source.removesuffix(".c") + ".o" for source in sources]
        jobs = [
            subprocess.Popen([CC, *FLAGS, "-c", s, "-o", o], cwd=folder) for s, o in zip(sources, objects, strict=True)
        ]
        assert [job.wait() for job in jobs] == [0] * len(jobs)
        subprocess.run([CC, *FLAGS, "-shared", *objects, "-o", "kernels.so", "-lm"], cwd=folder, check=True)
        self.library = ctypes.CDLL(str(folder / "kernels.so"))
        self.openmp = ctypes.CDLL("libomp.so.5" if "clang" in CC else "libgomp.so.1")

    def call(self, name: str, *args: np.ndarray | int | None) -> None:
        """Call a kernel once."""
        getattr(self.library, name)(*(pointer(a) if not isinstance(a, int) else ctypes.c_int64(a) for a in args))

    def same_for_any_threads(
        self, name: str, before: Sequence[np.ndarray | int], results: Iterable[np.ndarray], after: Sequence[int]
    ) -> None:
        """Call with 1, 2 and 3 threads and check that `results` come out equal bit for bit."""
        results = list(results)
        start = [r.copy() for r in results]
        seen: list[list[bytes]] = []
        for threads in THREADS:
            for array, content in zip(results, start, strict=True):
                array[...] = content
            self.openmp.omp_set_num_threads(threads)
            self.call(name, *before, *results, *after)
            seen.append([r.tobytes() for r in results])
        assert seen[0] == seen[1] == seen[2], f"{name}: the bits depend on the number of threads"


def pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    """The address of an array's first element."""
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
