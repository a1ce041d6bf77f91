"""From gradients to new parameters.

Reads:    a graph at stage `precise` with an output `grad:<key>` for every parameter; `collect` leaves such
          a graph, `apply` needs nothing but the parameters and their copies.
Leaves:   the same stage.
Does:     `step`     global-norm clipping and an optimizer; outputs `norm`, each `<key>` and its state, as `<key>.m`,
                     and the parameter rounded where a copy of it is kept
          `collect`  one micro-step of several: gradients are added up in buffers `<key>.grad`
          `apply`    the update that follows the last micro-step: as `step`, from the buffers
          An update changes nothing where the loss or the norm is not finite, or above the inputs `max_loss` and
          `max_norm` (0: no limit; `apply`, which has no loss, takes the second alone).  The output `clip_scale` is the
          factor on the gradients, or 0 where nothing was changed.  Between ranks `step` gives the mean of their losses.
Does not: know the learning rate or how many steps there were: those are the inputs `lr` and `step`.

Clipping as in Pascanu et al. 2013; the optimizers and their sources are in `gptc.ir.ops.optimizer`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from gptc.ir.build import Builder, extend
from gptc.ir.graph import Graph, Node, Value, drop_unused
from gptc.ir.ops.elementwise import Add
from gptc.ir.ops.embedding import ScatterAdd
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.types import DType
from gptc.passes.copies import SEEDS, copies, last_seeds, streams
from gptc.passes.differentiate import GRADIENT, LOSS_SCALE, parameters
from gptc.passes.manager import Context
from gptc.passes.optimizers import OPTIMIZERS, Parameter
from gptc.rates import RATES

Part = Literal["step", "collect", "apply"]


@dataclass(frozen=True)
class Update:
    """Clip by global norm, then one step of the optimizer.  Weight decay is for parameters of the decay group."""

    name: ClassVar[str] = "update"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    part: Part = "step"
    optimizer: str = "adamw"
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    """Its constants, as far as it has them; None: as `gptc.rates` has it."""
    clip: float = 0.0
    """Largest global norm of the gradients; 0 leaves them as they are."""
    rounding: str = "nearest"
    """Of parameters and copies in bf16: `nearest` or `stochastic`."""
    scaled: bool = False
    """Gradients come times the input `loss_scale`; the norm and what the optimizer sees do not."""
    ranks: bool = False
    """Average the gradients over the ranks of a job first."""

    def run(self, graph: Graph, context: Context) -> Graph:
        if self.part == "apply":
            return self.apply(graph)
        grads = {o.name.removeprefix(GRADIENT): o.value for o in graph.outputs if o.name.startswith(GRADIENT)}
        loss = next(o.value for o in graph.outputs if o.name == "loss")
        means = self.part == "step" and self.ranks
        kept = (o for o in graph.outputs if not o.name.startswith(GRADIENT) and not (means and o.value == loss))
        graph = replace(graph, outputs=tuple(kept))
        if self.part == "collect":
            return collect(graph, grads)
        b = extend(graph)
        if means:  # the ranks skip an update together
            loss = b.all_reduce(loss, label="loss.mean")
            b.output("loss", loss)
        self.update(b, parameters(graph), self.exchanged(b, parameters(graph), grads), copies(graph), loss)
        return b.build("precise")

    def apply(self, graph: Graph) -> Graph:
        """A program of its own: parameters and their collected gradients in, parameters out."""
        b = Builder(graph.name)
        params, rounded = parameters(graph), copies(graph)
        for node in (*params.values(), *rounded.values()):
            b.add_node(node)
        sums = {key: state(b, node, "grad") for key, node in params.items()}
        means = self.exchanged(b, params, sums)
        for key in params if self.ranks else ():
            b.output(f"{key}.grad", means[key])  # in place of the sum, which nothing reads any more
        self.update(b, params, means, rounded)
        return b.build("precise")

    def exchanged(self, b: Builder, params: Mapping[str, Node], grads: Mapping[str, Value]) -> dict[str, Value]:
        """The mean of every gradient over the ranks."""
        if not self.ranks:
            return dict(grads)
        means: dict[str, Value] = {}
        for key, node in params.items():
            with b.place(node.span, f"exchange {key}"):
                means[key] = b.all_reduce(grads[key], label=f"{node.name}.mean")
        return means

    def update(
        self, b: Builder, params: Mapping[str, Node], grads: Mapping[str, Value], rounded: Mapping[str, Node],
        loss: Value | None = None,
    ) -> None:  # fmt: skip
        """Append clipping and one step of the optimizer for each parameter."""
        lr, step = (b.input(key=key, label=key) for key in ("lr", "step"))
        seeds = self.seeds(b, params, rounded, step)
        squares = []
        for key, node in params.items():
            with b.place(node.span, f"update {key}"):
                squares.append(b.sum_squares(grads[key], label=f"{node.name}.squares"))
        with b.place(None, "clip"):
            norm = b.global_norm(*squares, label="norm.scaled" if self.scaled else "norm")
            if self.scaled:
                loss_scale = _loss_scale(b)
                norm = b.div(norm, loss_scale, label="norm")
            # A limit of infinity never clips, and spares a second form of the update.
            scale = b.clip_scale(norm, limit=self.clip or math.inf)
            for name, value in ({"max_norm": norm} | ({"max_loss": loss} if loss else {})).items():
                scale = b.skip_above(scale, value, b.input(key=name, label=name))
        b.output("norm", norm)
        b.output("clip_scale", scale)
        if self.scaled:
            with b.place(None, "clip"):
                scale = b.div(scale, loss_scale, label="unscale")
        rule, constants = OPTIMIZERS[self.optimizer], self.constants()
        for key, node in params.items():
            assert isinstance(node.op, Buffer)
            rates = constants if node.op.decay or "weight_decay" not in constants else constants | {"weight_decay": 0.0}
            copy = str(rounded[key].results[0].type.dtype) if key in rounded else ""
            with b.place(node.span, f"update {key}"):
                own = partial(state, b, node)
                parameter = Parameter(node.results[0], grads[key], lr, step, scale, own, copy, seeds.get(key))
                for suffix, value in rule(b, parameter, rates, f"{node.name}.new").items():
                    b.output(key + suffix, value)

    def constants(self) -> dict[str, float]:
        """Those of the optimizer."""
        told = {name: getattr(self, name) for name in RATES[self.optimizer]}
        return {name: RATES[self.optimizer][name] if value is None else value for name, value in told.items()}

    def seeds(
        self, b: Builder, params: Mapping[str, Node], rounded: Mapping[str, Node], step: Value
    ) -> Mapping[str, Value]:
        """The seed at this step of each parameter that is bf16 or has a copy, where rounding is stochastic.

        Copies are never saved: `refresh` makes them again, to the bit, with the seeds kept here.
        """
        if self.rounding != "stochastic":
            return {}
        seeds = b.seeds(step, count=len(params), label="seeds.new")
        if rounded:
            last_seeds(b, params)
            b.output(SEEDS, seeds)
        narrow = {key for key, node in params.items() if key in rounded or node.results[0].type.dtype is DType.bf16}
        return {key: seed for key, seed in streams(b, params, seeds).items() if key in narrow}


def _loss_scale(b: Builder) -> Value:
    """The input that the backward pass has, or that of a program without one."""
    found = (n.results[0] for n in b.nodes if isinstance(n.op, Input) and n.op.key == LOSS_SCALE)
    value: Value = next(found, None) or b.input(key=LOSS_SCALE, label=LOSS_SCALE)
    return value


def collect(graph: Graph, grads: Mapping[str, Value]) -> Graph:
    """With `<key>.grad = grad` on the first micro-step, `<key>.grad += grad` on the others.

    The terms of a gradient are added one after another, each as soon as it is there: none waits for what comes later,
    a product can add itself, and rows are scattered right into the sum.
    """
    b = Builder(graph.name)
    b.reserve(value.name for value in graph.values())
    b.outputs = list(graph.outputs)
    first, params = b.input(key="first", label="first"), parameters(graph)
    waiting: dict[str, list[str]] = {}
    for key, grad in grads.items():
        for name in _terms(graph, grad):
            waiting.setdefault(name, []).append(key)
    sums: dict[str, Value] = {}
    for node in graph.nodes:
        b.add_node(node)
        for term, key in ((value, key) for value in node.results for key in waiting.get(value.name, ())):
            with b.place(params[key].span, f"collect {key}"):
                label = f"{params[key].name}.collected"
                if key in sums:
                    sums[key] = b.add(sums[key], term, label=label)
                    continue
                scattered = isinstance(node.op, ScatterAdd)
                total = state(b, params[key], "grad")
                sums[key] = b.accumulate(total, node.operands[0] if scattered else term, first, label=label)
                if scattered:
                    (sums[key],) = b.apply(node.op, (sums[key], *node.operands[1:]), label)
    for key in params:
        b.output(f"{key}.grad", sums[key])
    return drop_unused(b.build("precise"))


def _terms(graph: Graph, grad: Value) -> list[str]:
    """What a gradient is the sum of."""
    found, left = [], [grad]
    while left:
        value = left.pop()
        node = graph.producer[value.name]
        if isinstance(node.op, Add) and all(operand.type == value.type for operand in node.operands):
            left += node.operands
        else:
            found.append(value.name)
    return found


def state(b: Builder, parameter: Node, suffix: str) -> Value:
    """A state buffer `<key>.<suffix>` of the parameter's shape in f32, zero at the start."""
    assert isinstance(parameter.op, Buffer)
    like = parameter.op
    key = f"{like.key}.{suffix}"
    op = replace(like, key=key, role="state", dtype=DType.f32, init="zeros", valid=(), decay=False)
    (value,) = b.apply(op, (), f"{parameter.name}.{suffix}")
    return value
