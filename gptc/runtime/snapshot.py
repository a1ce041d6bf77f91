"""A copy of what training has made of a model, taken between two steps and written out while it goes on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gptc.runtime.manifest import State
from gptc.runtime.model import Model
from gptc.shares import part

ACCUMULATOR = ".grad"
"""Ends the name of a sum of gradients, which the first micro-step of every step begins anew."""


class Snapshot:
    """Parameters (their valid regions) and the optimizer's state, in memory of its own that every `take` fills anew.

    Of ranks that divide the state each has its own elements; the first has the parameters.  It needs as many bytes as
    they do, once, for as long as it is kept.  Raises MemoryError where they cannot be had.
    """

    def __init__(self, model: Model, rank: int = 0) -> None:
        manifest = model.artefact.manifest
        self.params = manifest.params if rank == 0 else ()
        self.weights = {p.name: np.empty(p.valid, p.numpy_dtype) for p in self.params}
        shapes = {t: shape(t, manifest.shards, rank) for t in lasting_state(model)}
        self.state = {t.name: np.empty(extents, t.numpy_dtype) for t, extents in shapes.items()}
        self.rank = rank

    def take(self, model: Model) -> None:
        """Copy the model as it is now."""
        for param in self.params:
            self.weights[param.name][...] = model.valid(param)
        for tensor in lasting_state(model):
            self.state[tensor.name][...] = own(model, tensor, self.rank)

    @property
    def nbytes(self) -> int:
        return sum(copy.nbytes for copies in (self.weights, self.state) for copy in copies.values())


def lasting_state(model: Model) -> tuple[State, ...]:
    """State tensors that a step finds as the step before left them."""
    return tuple(t for t in model.artefact.manifest.state if not t.name.endswith(ACCUMULATOR))


def extent(tensor: State, shards: int, rank: int) -> tuple[int, int]:
    """The elements [start, stop) of the whole tensor that a rank has."""
    return part(math.prod(tensor.whole), shards, rank) if tensor.whole else (0, math.prod(tensor.shape))


def shape(tensor: State, shards: int, rank: int) -> tuple[int, ...]:
    """Of a rank's elements: a share is flat, and may be cut short."""
    start, stop = extent(tensor, shards, rank)
    return (stop - start,) if tensor.whole else tensor.shape


def own(model: Model, tensor: State, rank: int) -> Any:
    """A rank's elements of a state tensor, in place."""
    return model.leading(tensor.name, shape(tensor, model.artefact.manifest.shards, rank))
