"""A GPU and an nvcc that are none: what gptc does around kernels, on a machine without a device.

Memory of the device is memory of the host; kernels do nothing.  Programs are the emitted ones, compiled by cc.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NVCC = """#!{python}
import os, re, subprocess, sys
from pathlib import Path

arguments = sys.argv[1:]
if "--version" in arguments:
    sys.exit(print("Cuda compilation tools, release {release}, V{release}.0"))
if "--list-gpu-code" in arguments:
    sys.exit(print("sm_75 sm_80 sm_90"))
if "--dryrun" in arguments:
    known = re.search(r"code=.sm_(75|80|90a?),", " ".join(arguments))
    sys.exit(None if known else "nvcc fatal   : Unsupported gpu architecture 'compute_0'")
out = arguments[arguments.index("-o") + 1]
units = [a for a in arguments if a.endswith((".c", ".cu", ".o"))]
text = Path(units[0]).read_text() if "-c" in arguments else ""
if complaint := {complaint!r} if units[0].endswith("kernels.cu") else "":
    sys.exit(complaint.format(kernel=re.findall("kernels/(\\\\w+).cu", text)[-1]))
if units[0].endswith("kernels.cu"):
    text = "#include <stdio.h>\\nextern char gptc_failure[256];\\n"
    for name in re.findall("kernels/(\\\\w+).cu", Path(units[0]).read_text()):
        fails = name.startswith(os.environ.get("FAILS", "-"))
        body = 'snprintf(gptc_failure, 256, "%s: invalid argument");' % name if fails else ""
        text += "void %s(void) {{ %s }}\\n" % (name, body)
elif units[0].endswith("device.cu"):
    text = "void (*gptc_after)(int); void *gptc_stream; char gptc_failure[256];"
argv = ["cc", "-fPIC", "-w", "-Iinclude", "-Iprograms", "-o", out]
argv += ["-c", "-x", "c", "-"] if text else ["-shared", *units]
sys.exit(subprocess.run(argv, input=text, text=True).returncode)
"""


def pretended_nvcc(folder: Path, release: str = "13.0", complaint: str = "") -> str:
    """A script that does as nvcc does; with `complaint` it refuses kernels, "{kernel}" standing for one of them."""
    folder.mkdir(exist_ok=True)
    path = folder / "nvcc"
    path.write_text(NVCC.format(python=sys.executable, release=release, complaint=complaint))
    path.chmod(0o755)
    return str(path)


class Error(Exception):
    """pycuda.driver.Error"""


class PretendedDriver:
    """As much of pycuda.driver as gptc uses.  `on_wait(n)` is called at the n-th wait for the stream, from 1."""

    Error = Error

    def __init__(
        self, capability: tuple[int, int] = (9, 0), free: int = 1 << 30, on_wait: Callable[[int], None] | None = None
    ) -> None:
        self.capability, self.free, self.on_wait = capability, free, on_wait
        self.waits = 0
        self.gives = free
        self._blocks: list[Any] = []
        self.Context = self.Device = self

    def __call__(self, *arguments: Any) -> PretendedDriver:
        return self

    def init(self) -> None:
        """It starts."""

    def count(self) -> int:
        return 1

    def retain_primary_context(self) -> PretendedDriver:
        return self

    get_device = retain_primary_context

    def push(self) -> None:
        """A context is current."""

    pop = push

    def name(self) -> str:
        return "Pretended GPU"

    def pci_bus_id(self) -> str:
        return "0000:00:00.0"

    def compute_capability(self) -> tuple[int, int]:
        return self.capability

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, 2 * self.free

    def mem_alloc(self, size: int) -> int:
        self.gives -= size
        if self.gives < 0:
            raise Error("cuMemAlloc failed: out of memory")
        self._blocks.append(ctypes.create_string_buffer(size))
        return ctypes.addressof(self._blocks[-1])

    def memset_d8(self, address: int, value: int, size: int) -> None:
        ctypes.memset(address, value, size)

    def memcpy_dtoh(self, to: Any, address: int) -> None:
        ctypes.memmove(to.ctypes.data, address, to.nbytes)

    def memcpy_htod(self, address: int, value: Any, stream: Any = None) -> None:
        ctypes.memmove(address, value.ctypes.data, value.nbytes)

    memcpy_htod_async = memcpy_htod

    def pagelocked_empty(self, count: int, dtype: Any) -> Any:
        return np.empty(count, dtype)

    def Stream(self) -> Stream:
        return Stream(self)

    def Event(self) -> Event:
        return Event()


class Stream:
    handle = 1

    def __init__(self, driver: PretendedDriver) -> None:
        self._driver = driver

    def synchronize(self) -> None:
        self._driver.waits += 1
        if self._driver.on_wait:
            self._driver.on_wait(self._driver.waits)


class Event:
    def record(self, stream: Any) -> None:
        """Nothing is under way."""

    def synchronize(self) -> None:
        """Nothing is under way."""


def nvidia_smi(folder: Path, capability: Sequence[int] | None) -> None:
    """A command of that name in `folder`; without a GPU it fails, also where a real one would not."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\necho {capability[0]}.{capability[1]}\n" if capability else "#!/bin/sh\nexit 9\n")
    path.chmod(0o755)
