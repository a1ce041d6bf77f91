"""Which tensor was the first with a number that is not finite, and what wrote it.

Reads: the memory of a model, and what `plan.json` says of every kernel call: its ops, its line in the model file, the
       values that it writes.
Does:  look at the weights, then repeat a step and look at the results of each call.  That is possible because an update
       whose loss or norm is not finite is skipped: weights and moments are those from before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc.contracts import DTYPES, Segment
from gptc.errors import GptcError, NumericsError, Span
from gptc.runtime.calls import planned
from gptc.runtime.model import Model
from gptc.runtime.snapshot import lasting_state
from gptc.runtime.world import World

RATE = "lower the learning rate, or lengthen the warmup"
MASKING = "causal_mask"
"""The op that writes -inf on purpose."""


@dataclass(frozen=True)
class Culprit:
    """A tensor, how many of its numbers are not finite, and the first of them."""

    tensor: str
    count: int
    size: int
    where: str
    value: str
    number: int = -1
    """Of the kernel calls of the whole step, in order; -1 for a tensor that no call wrote."""
    call: str = ""
    at: list[Any] | None = None
    """File, line and column."""


@dataclass(frozen=True)
class StoredValue:
    """A value in memory; strides in elements."""

    name: str
    segment: Segment
    offset: int
    bytes: int
    shape: list[int]
    strides: list[int]
    dtype: str

    def read(self, model: Model) -> NDArray[Any]:
        dtype = DTYPES[self.dtype]
        steps = tuple(stride * dtype.itemsize for stride in self.strides)
        return np.ndarray(tuple(self.shape), dtype, model.peek(self.segment, self.offset, self.bytes).data, 0, steps)


def explained(model: Model, world: World, message: str, again: Callable[[], object]) -> GptcError:
    """A NumericsError `message`, with the first such tensor when `again` repeats what ended so.

    All ranks of a job must ask; the tensor is the first of any of them.
    """
    found = world.gather(json.dumps(_find(model, again)))
    culprits = [(Culprit(**each), rank) for rank, each in enumerate(map(json.loads, found)) if each]
    if not culprits:
        note = "repeated, it is finite: nothing is wrong with the numbers, so the machine may have erred"
        return NumericsError.of(message, None, "go on from the last checkpoint with --resume auto", note)
    culprit, rank = min(culprits, key=lambda each: each[0].number)
    numbers = f"{culprit.count:,} of {culprit.size:,} numbers are not finite"
    notes = [f"{numbers}, the first at {culprit.where}: {culprit.value}", culprit.call or "it was so before the step"]
    notes += [f"on rank {rank}"] if world.size > 1 else []
    span = Span(*culprit.at) if culprit.at else None
    return NumericsError.of(f"{message}; the first tensor that is not finite is {culprit.tensor}", span, RATE, *notes)


def _find(model: Model, again: Callable[[], object]) -> dict[str, Any] | None:
    for tensor in (*model.artefact.manifest.params, *lasting_state(model)):
        shape = [*tensor.shape]
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        value = StoredValue(tensor.name, tensor.segment, tensor.offset, tensor.nbytes, shape, strides, tensor.dtype)
        if found := _look(value, model):
            return asdict(found)
    watch = _Watch(model)
    model.on_call(watch.after)
    try:
        again()
    finally:
        model.on_call(None)
    return asdict(watch.found) if watch.found else None


class _Watch:
    """Looks at what each call writes, until something is not finite."""

    def __init__(self, model: Model) -> None:
        self.model, self.number = model, -1
        self.found: Culprit | None = None
        programs = planned(model.artefact)
        self.calls = {program["name"]: program["kernels"] for program in programs}
        names = [field.name for field in fields(StoredValue)]
        self.values = {
            program["name"]: {v["name"]: StoredValue(*(v[name] for name in names)) for v in program["values"]}
            for program in programs
        }

    def after(self, index: int) -> None:
        self.number += 1
        program = self.model.running
        call = self.calls[program][index]
        for name in () if self.found else call["writes"]:
            ops, block = " + ".join(call["ops"]), f" in {call['block']}" if call["block"] else ""
            about = f"written by {ops}{block}: call {index} of {program}, kernel {call['kernel']}"
            if found := _look(self.values[program][name], self.model, MASKING in call["ops"]):
                self.found = replace(found, number=self.number, call=about, at=call["at"])
                return


def _look(value: StoredValue, model: Model, masked: bool = False) -> Culprit | None:
    """With `masked`, minus infinity is as it should be."""
    if value.dtype not in ("f64", "f32", "bf16", "f16"):
        return None
    array = value.read(model)
    bad = ~np.isfinite(array)
    if masked:
        bad &= array != -math.inf
    if not bad.any():
        return None
    where = [int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape)]
    number = str(float(array[tuple(where)]))
    shown = f"{value.name} {value.dtype}{value.shape}".replace(" [", "[")
    return Culprit(shown, int(bad.sum()), bad.size, str(where), number)
