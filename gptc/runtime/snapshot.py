"""A copy of what training has made of a model, taken between two steps and written out while it goes on."""

from __future__ import annotations

import numpy as np

from gptc.runtime.manifest import Tensor
from gptc.runtime.model import Model

ACCUMULATOR = ".grad"
"""Ends the name of a sum of gradients, which the first micro-step of every step begins anew."""


class Snapshot:
    """Parameters (their valid regions) and the optimizer's state, in memory of its own that every `take` fills anew.

    It needs as many bytes as they do, once, for as long as it is kept.  Raises MemoryError where they cannot be had.
    """

    def __init__(self, model: Model) -> None:
        self.weights = {p.name: np.empty(p.valid, p.numpy_dtype) for p in model.artefact.manifest.params}
        self.state = {t.name: np.empty(t.shape, t.numpy_dtype) for t in lasting_state(model)}

    def take(self, model: Model) -> None:
        """Copy the model as it is now."""
        for param in model.artefact.manifest.params:
            self.weights[param.name][...] = model.valid(param)
        for name, copy in self.state.items():
            copy[...] = model[name]

    @property
    def nbytes(self) -> int:
        return sum(copy.nbytes for copies in (self.weights, self.state) for copy in copies.values())


def lasting_state(model: Model) -> tuple[Tensor, ...]:
    """State tensors that a step finds as the step before left them."""
    return tuple(t for t in model.artefact.manifest.state if not t.name.endswith(ACCUMULATOR))
