"""Initial weights from the manifest's init specs, drawn in the manifest's order as PyTorch would draw them."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gptc.runtime.manifest import Constant, Init, Normal, Ones, Uniform, Zeros
from gptc.runtime.model import Model
from gptc.runtime.rng import Mt19937
from gptc.runtime.store import store

SEED = 42  # of llm.c's `-e d12`


class Source(Protocol):
    """Where random numbers come from, `n` at a time."""

    def normal(self, n: int, std: float) -> NDArray[np.float32]: ...
    def uniform(self, n: int) -> NDArray[np.float32]: ...


def initialise(model: Model, seed: int = SEED) -> None:
    """Fill every parameter's valid region; padding keeps the zeros it was allocated with."""
    fill(model, Mt19937(seed))


def fill(model: Model, rng: Source) -> None:
    """The same with other random numbers."""
    for param in model.artefact.manifest.params:
        store(model, param, draw(param.init, math.prod(param.valid), rng).reshape(param.valid))


def draw(init: Init, n: int, rng: Source) -> NDArray[np.float32]:
    """The next n values of an initialisation, in f32 whatever the parameter is stored as."""
    match init:
        case Normal():
            return rng.normal(n, init.std)
        case Uniform():
            return rng.uniform(n) * np.float32(init.high - init.low) + np.float32(init.low)
        case Zeros():
            return np.zeros(n, np.float32)
        case Ones():
            return np.ones(n, np.float32)
        case Constant():
            return np.full(n, init.value, np.float32)
