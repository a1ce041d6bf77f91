"""A loaded artefact of either target, which the rest of the runtime treats alike."""

from __future__ import annotations

from pathlib import Path

from gptc.runtime.artefact import Artefact
from gptc.runtime.cpu import CpuModel
from gptc.runtime.cuda import CudaModel

Model = CpuModel | CudaModel


def load_model(artefact: Artefact, library: Path, threads: int | None = None, plain: bool = False) -> Model:
    """The artefact with memory of its own, on the machine that its target says.

    `threads` is for the CPU's; with `plain` a GPU launches and awaits kernels one by one.
    """
    if artefact.manifest.target == "cuda":
        return CudaModel(artefact, library, plain)
    model = CpuModel(artefact, library)
    if threads:
        model.set_threads(threads)
    return model
