"""Kernels selected, rendered, compiled for the GPU of this machine, and called on NumPy arrays."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptc.codegen.kernel import Argument, Call, Element, Scratch
from gptc.codegen.render import cuda_headers, render, render_kernel
from gptc.codegen.select import select
from gptc.codegen.target import Target, describe_cuda
from gptc.errors import ToolMissing
from gptc.ir.graph import Node, Value
from gptc.runtime import device
from tests.codegen.native import Array

MODULES = 16
"""Files that kernels are spread over: nvcc reads its headers once for each."""


def device_arch() -> str | None:
    """`sm_90a` of the GPU here, None where there is none to run on."""
    if importlib.util.find_spec("pycuda") is None:
        return None
    try:
        capability = device.this_gpu().capability
    except ToolMissing:
        return None
    return f"sm_{capability}{'a' if capability == 90 else ''}"


ARCH = device_arch()
needs_device = pytest.mark.skipif(ARCH is None, reason="no CUDA device, or no pycuda")


class DeviceKernels:
    """A library of every kernel that some nodes need, with memory of the GPU for one call at a time."""

    def __init__(self, folder: Path, nodes: Sequence[Node]) -> None:
        assert ARCH
        self.target = describe_cuda("nvcc", ARCH)
        self.driver = device.driver()
        self.calls: dict[int, Call] = {}
        sources: dict[str, str] = {}
        for node in nodes:
            call = select(node, self.target)
            assert call is not None
            self.calls[id(node)] = call
            if call.kernel.name not in sources:
                sources[call.kernel.name] = render_kernel(self.target, call.kernel, [call.kernel.name])
        self.library = build(folder, sources, self.target)
        self.failure = (ctypes.c_char * 256).in_dll(self.library, "gptc_failure")

    def call(self, node: Node, memory: Mapping[str, Array], threads: int = 0) -> None:
        """Compute a node; `memory` has an array for every operand and result, laid out as its type says.

        Arrays at one address are one piece of memory of the device too.
        """
        call = self.calls[id(node)]
        spans = dict(map(span, memory.values()))
        buffers = {address: self.driver.to_device(piece) for address, piece in spans.items()}
        starts = {name: span(array)[0] for name, array in memory.items()}
        where = {name: int(buffers[at]) + memory[name].ctypes.data - at for name, at in starts.items()}
        keep: list[Any] = []
        function = getattr(self.library, call.kernel.name)
        function(*(self._pass(a, where, keep) for a in call.arguments))
        self.driver.Context.synchronize()
        assert not self.failure.value, self.failure.value.decode()
        for address, piece in spans.items():
            self.driver.memcpy_dtoh(piece, buffers[address])

    def _pass(self, argument: Argument, where: Mapping[str, int], keep: list[Any]) -> Any:
        match argument:
            case int():
                return ctypes.c_int64(argument)
            case float():
                return ctypes.c_float(argument)
            case tuple() if isinstance(argument[0], int):
                keep.append((ctypes.c_int64 * len(argument))(*argument))
                return keep[-1]
            case tuple():
                keep.append((ctypes.c_void_p * len(argument))(*(where[v.name] for v in argument)))
                return keep[-1]
            case Scratch(size):
                keep.append(self.driver.mem_alloc(max(1, size)))
                self.driver.memset_d8(keep[-1], 0xFF, max(1, size))
                return ctypes.c_void_p(int(keep[-1]))
            case Element(value, index):
                return ctypes.c_void_p(where[value.name] + index * value.type.dtype.size)
            case Value():
                return ctypes.c_void_p(where[argument.name])


def span(array: Array) -> tuple[int, Array]:
    """Address and contents of the bytes that an array covers, gaps of its strides included."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return low, np.frombuffer((ctypes.c_uint8 * max(1, high - low)).from_address(low), np.uint8)


def build(folder: Path, sources: Mapping[str, str], target: Target) -> ctypes.CDLL:
    """Compile kernels, several a file; a namespace keeps the constants of each to itself."""
    (folder / "include").mkdir()
    for path, header in cuda_headers().items():
        (folder / path).write_text(header)
    names = list(sources)
    groups = [names[i::MODULES] for i in range(min(MODULES, len(names)))]
    texts = {"device": render("cuda/program/device.cu"), "ranks": render("c/program/ranks.c")}
    for number, group in enumerate(groups):
        spaces = "".join(f"namespace of_{name} {{\n{sources[name]}\n}}\n" for name in group)
        texts[f"part{number}"] = f'#include "launch.cuh"\n{spaces}'

    def compile_one(name: str) -> str:
        (folder / f"{name}.cu").write_text(texts[name])
        command = [target.compiler, *target.flags, "-Iinclude", "-c", f"{name}.cu", "-o", f"{name}.o"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        return done.stderr if done.returncode else ""

    with ThreadPoolExecutor() as pool:
        errors = "".join(pool.map(compile_one, texts))
    assert not errors, errors
    objects = [f"{name}.o" for name in texts]
    subprocess.run([target.compiler, *target.flags, "-shared", *objects, "-o", "kernels.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "kernels.so"))
