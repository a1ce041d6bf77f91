"""Compare a built artefact with the interpreter, kernel call by kernel call.

Reads:    the artefact's own `graph.gir`, its library, and every tensor in its memory.
Does:     before a call, check that its operands still hold what was put there (if not, the memory plan is wrong);
          after it, compare each result with a float64 evaluation of the node on those same operands.
Does not: let errors add up: each call is judged alone, within the bound of `gptc.bounds`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc.bounds import bounded
from gptc.errors import Diagnostic, NumericsError, StorageError
from gptc.ir.analysis import roots
from gptc.ir.graph import Graph, Value
from gptc.ir.ops.leaf import Buffer, Constant, Input
from gptc.ir.ops.shape import View
from gptc.ir.text import parse_graphs
from gptc.ir.types import Array
from gptc.running_error import Bounded
from gptc.runtime.artefact import Artefact
from gptc.runtime.init import SEED, draw, initialise
from gptc.runtime.manifest import Normal, Uniform
from gptc.runtime.model import Model, load_model
from gptc.runtime.rng import Mt19937
from gptc.runtime.store import store

Progress = Callable[[str, int, int], None]
"""Program, calls done, calls in all."""

SPREAD = 0.02
"""Standard deviation of what is added to biases and gains."""
TRAINING_RATE = 1e-3
"""Learning rate of the steps that are compared: any will do."""
LOSS_SCALE = 1024.0
"""Factor on gradients in f16: a power of two."""


@dataclass
class Agreement:
    """What was compared, and where it came closest to its bound."""

    programs: list[str] = field(default_factory=list)
    calls: int = 0
    elements: int = 0
    worst: float = 0.0
    """Largest error, as a share of what is allowed."""
    worst_at: str = ""


def check_artefact(
    artefact: Artefact, library: Path, threads: int | None = None, progress: Progress | None = None
) -> Agreement:
    """Load the artefact and check it as `check_model` does."""
    return check_model(load_model(artefact, library, threads), progress)


def check_model(model: Model, progress: Progress | None = None) -> Agreement:
    """Run every program on random tokens; NumericsError at the first call that is wrong.

    Programs of a training artefact run in the order of two steps, so that the second finds moments that are not zero.
    """
    graphs = {graph.name: graph for graph in _graphs(model.artefact)}
    initialise(model)
    _perturb(model)
    if model.artefact.has_program("refresh"):
        model.run("refresh")  # before copies of parameters are watched
    agreement = Agreement()
    for number, (program, first) in enumerate(_schedule(model.artefact)):
        _set_inputs(model, number, first)
        watch = _Watch(model, graphs[program], agreement, progress)
        watch.before(0)
        model.on_call(watch.after)
        try:
            model.run(program)
        finally:
            model.on_call(None)
        if program not in agreement.programs:
            agreement.programs.append(program)
    return agreement


def _graphs(artefact: Artefact) -> Sequence[Graph]:
    path = artefact.folder / "graph.gir"
    try:
        return parse_graphs(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot read: {error.strerror}") from None


def _schedule(artefact: Artefact) -> list[tuple[str, bool]]:
    """Programs to run, and whether each is the first micro-step of its step."""
    if artefact.has_program("logits"):
        programs = [("logits", True)]
    elif artefact.has_program("decode"):
        programs = [("prefill", True), ("decode", True), ("decode", True)]
    elif artefact.has_program("step"):
        programs = [("evaluate", True), ("step", True), ("step", True)]
    else:
        step = [("micro_step", True), ("micro_step", False), ("update", True)]
        programs = [("evaluate", True), *step, *step]
    return [*programs, ("refresh", True)] if artefact.has_program("refresh") else programs


def _perturb(model: Model) -> None:
    """Move biases off 0 and gains off 1: there, a kernel that forgets to add or to multiply would be right."""
    random = Mt19937(SEED)
    for param in model.artefact.manifest.params:
        if not isinstance(param.init, (Normal, Uniform)):
            moved = draw(param.init, prod(param.valid), random) + random.normal(prod(param.valid), SPREAD)
            store(model, param, moved.reshape(param.valid))


def _set_inputs(model: Model, number: int, first: bool) -> None:
    """Random tokens, another batch each time.  A prompt begins at position 0; each `decode` takes the next position."""
    random = Mt19937(number)
    values = {"loss_scale": LOSS_SCALE, "lr": TRAINING_RATE, "step": 1.0 + number // 3, "first": float(first)}
    dims, ports = model.artefact.manifest.dims, {port.name: port for port in model.artefact.manifest.io}
    if "position" in ports:
        prompt = ports["positions"].shape[0]
        values["position"] = min(prompt + number - 1, dims["T"] - 1)
        model["positions"][...] = np.arange(prompt)
    for name, port in ports.items():
        if name in ("tokens", "targets", "token", "last"):
            bound = dims["B"] * prompt if name == "last" else dims["V"]
            ids = random.randint32(int(np.prod(port.shape))) % np.uint32(bound)
            model[name][...] = ids.reshape(port.shape)
        elif name in values:
            model[name][...] = values[name]


class _Watch:
    """Follows one run of one program."""

    def __init__(self, model: Model, graph: Graph, agreement: Agreement, progress: Progress | None) -> None:
        self.model, self.graph, self.agreement, self.progress = model, graph, agreement, progress
        self.nodes = [n for n in graph.nodes if not isinstance(n.op, (Input, Buffer, Constant, View))]
        self.root = roots(graph)
        self.value = {v.name: v for v in graph.values()}
        self.sums: dict[str, int] = {}
        self.operands: list[Array] = []
        for node in graph.nodes:
            if isinstance(node.op, (Input, Buffer)):
                self.sums[node.name] = self._sum(node.results[0])

    def before(self, call: int) -> None:
        """Check and keep the operands of a call."""
        if call == len(self.nodes):
            return
        node = self.nodes[call]
        for value in node.operands:
            root = self.root.get(value.name)
            if root is not None and self._sum(self.value[root]) != self.sums[root]:
                raise self._wrong(call, value, "is not any more what it was when it was computed", _CLOBBERED)
        self.operands = [self._read(value).copy() for value in node.operands]

    def after(self, call: int) -> None:
        """Compare the results of a call, then prepare the next."""
        node = self.nodes[call]
        for value, expected in zip(node.results, bounded(node, self.operands), strict=True):
            self._compare(call, value, expected)
            self.sums[value.name] = self._sum(value)
        self.agreement.calls += 1
        if self.progress:
            self.progress(self.graph.name, call + 1, len(self.nodes))
        self.before(call + 1)

    def _compare(self, call: int, value: Value, expected: Bounded) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            found = self._read(value).astype(np.float64)
            error = np.where(found == expected.value, 0.0, np.abs(found - expected.value))
            share = np.where(error == 0, 0.0, error / expected.error)
        share = np.where(np.isnan(share), np.inf, share)
        self.agreement.elements += found.size
        worst = int(share.argmax())
        index = np.unravel_index(worst, share.shape)
        if share[index] > self.agreement.worst:
            self.agreement.worst = float(share[index])
            self.agreement.worst_at = f"%{value.name} of {self.graph.name}"
        if not share[index] <= 1:
            raise self._wrong(call, value, "is not what the interpreter computes", _differences(found, expected, share))

    def _wrong(self, call: int, value: Value, what: str, notes: tuple[str, ...]) -> NumericsError:
        node = self.nodes[call]
        message = (
            f"%{value.name} {what}: call {call} of {self.graph.name}, {node.op.name} in {node.origin or 'no block'}"
        )
        return NumericsError((Diagnostic(message, node.span, None, notes),))

    def _read(self, value: Value) -> Array:
        """The tensor in the artefact's memory; constants have none."""
        node = self.graph.producer[value.name]
        if isinstance(node.op, Constant):
            return node.op.eval()[0]
        dtype = value.type.dtype.numpy
        steps = tuple(s * dtype.itemsize for s in value.type.steps)
        first = value.type.reach_back * dtype.itemsize
        return np.ndarray(tuple(map(int, value.type.shape)), dtype, self._bytes(value).data, first, steps)

    def _sum(self, value: Value) -> int:
        """A checksum over the memory that a value covers."""
        return zlib.crc32(self._bytes(value).data)

    def _bytes(self, value: Value) -> NDArray[np.uint8]:
        """What lies from a value's lowest element to its highest."""
        place, kind = self.graph.plan[value.name], value.type
        lowest = place.offset - kind.reach_back * kind.dtype.size
        return self.model.peek(place.segment, lowest, kind.span * kind.dtype.size)  # type: ignore[arg-type]


_CLOBBERED = ("another call has written into its memory: the plan lets two live tensors overlap, or a kernel writes "
              "outside its results",)  # fmt: skip


def _differences(found: Array, expected: Bounded, share: Array) -> tuple[str, ...]:
    """The first element that is wrong, the worst one, and how many there are."""
    wrong = np.argwhere(~(share <= 1))
    worst = np.unravel_index(int(share.argmax()), share.shape)
    lines = [_difference(tuple(wrong[0]), found, expected)]
    if tuple(wrong[0]) != tuple(worst):
        lines.append(_difference(worst, found, expected))
    return (*lines, f"{len(wrong):,} of {found.size:,} elements are wrong")


def _difference(index: tuple[Any, ...], found: Array, expected: Bounded) -> str:
    here, there, allowed = (float(np.asarray(a)[index]) for a in (found, expected.value, expected.error))
    ulp = float(np.spacing(np.float32(abs(there)))) if np.isfinite(there) else 1.0
    where = f"[{', '.join(str(int(i)) for i in index)}]"
    return (
        f"at {where}: the artefact has {here:.9g}, the interpreter {there:.9g}: "
        f"{abs(here - there) / ulp:,.0f} ulps, {allowed / ulp:,.0f} allowed"
    )
