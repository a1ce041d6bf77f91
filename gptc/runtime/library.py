"""What the library of an artefact has for every target: its memory, its programs, its hook, its failure."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gptc.contracts import SEGMENTS, Segment
from gptc.errors import InternalError
from gptc.runtime.artefact import Artefact
from gptc.runtime.manifest import Tensor

View = TypeVar("View")

SMALLER = "compile the model with a smaller --batch or --seq"
"""What helps where its memory is not to be had."""
FAILURE_BYTES = 256
"""Of `gptc_failure` of `templates/cuda/program/device.cu.j2`."""
AFTER = ctypes.CFUNCTYPE(None, ctypes.c_int)
"""The hook of `templates/c/program/after.c`."""


class Memory(ctypes.Structure):
    """`struct gptc_memory` of the emitted code."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in SEGMENTS)


class Views(Generic[View]):
    """A model's tensors by name; notes when parameters are handed out that have copies, which may then be older."""

    def __init__(self, artefact: Artefact, view: Callable[[Tensor], View]) -> None:
        self.stale = False
        self._artefact = artefact
        self._masters = artefact.manifest.masters
        self._views = {tensor.name: view(tensor) for tensor in artefact.manifest.tensors}

    def __getitem__(self, name: str) -> View:
        """An error for a name that the artefact has not."""
        self.stale |= name in self._masters
        view = self._views.get(name)
        return self._views[self._artefact.tensor(name).name] if view is None else view

    def hand_out(self, segment: Segment) -> None:
        """All of a segment may be written from now on."""
        self.stale |= segment == "params" and bool(self._masters)


def entry_point(library: ctypes.CDLL, name: str) -> Any:
    """The function that runs a program; takes the address of a `Memory`."""
    try:
        function = getattr(library, name)
    except AttributeError:
        raise InternalError.of(f"the manifest names {name}, which the library does not define") from None
    function.argtypes, function.restype = [ctypes.POINTER(Memory)], None
    return function


def failure_text(library: ctypes.CDLL) -> str:
    """The first error of a launch since a library for a GPU was loaded; empty without one."""
    return (ctypes.c_char * FAILURE_BYTES).in_dll(library, "gptc_failure").value.decode(errors="replace")
