"""Put values of a parameter into a model, in the type in which it keeps them."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from gptc.quantisation import quantise
from gptc.runtime.manifest import Param
from gptc.runtime.model import Model


def store(model: Model, param: Param, values: NDArray[Any]) -> None:
    """`values`, of the valid shape, rounded to nearest even where the parameter is narrower."""
    if param.scale is None:
        model.valid(param)[...] = values
        return
    model.valid(param)[...], scale = quantise(values)
    model[param.scale][: len(scale)] = scale
