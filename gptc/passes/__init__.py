"""Passes: one a file, the file named after the pass.  The pipelines below are the only place that orders them."""

from __future__ import annotations

from typing import Protocol

from gptc.options import Options
from gptc.passes.differentiate import Differentiate
from gptc.passes.fuse import Fuse
from gptc.passes.layout import Layout
from gptc.passes.lower import Lower
from gptc.passes.manager import Pass
from gptc.passes.memory import Memory
from gptc.passes.precision import Precision
from gptc.passes.recognise import Recognise
from gptc.passes.schedule import Schedule
from gptc.passes.select import Select
from gptc.passes.simplify import Simplify
from gptc.passes.update import Part, Update

Pipeline = tuple[Pass, ...]

PASSES: dict[str, type[Pass]] = {
    p.name: p
    for p in (
        Select, Simplify, Recognise, Differentiate, Update, Precision, Layout, Lower, Fuse, Schedule, Memory,
    )
}  # fmt: skip
"""Every pass by name."""


class Training(Protocol):
    """What the pipelines need to know about how a model is trained."""

    @property
    def beta1(self) -> float: ...
    @property
    def beta2(self) -> float: ...
    @property
    def eps(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip(self) -> float: ...


def pipelines(options: Options, training: Training) -> dict[str, Pipeline]:
    """Program -> its passes.  Every program starts from the graph of the model.

    Memory is not in the lists: `plan_programs` plans all programs of an artefact together.
    """
    if options.mode == "infer":
        return {"logits": infer(options)}
    programs = {"evaluate": evaluate(options)}
    if options.micro_steps == 1:
        return {"step": train(options, optimizer("step", training))} | programs
    seed = 1 / options.micro_steps
    return {
        "micro_step": train(options, optimizer("collect", training), seed),
        "update": (optimizer("apply", training), *lower(options)),
    } | programs


def train(options: Options, update: Update, seed: float = 1.0) -> Pipeline:
    """From a model to a training program."""
    return (
        Select(("loss",)),  # first: what only other outputs need is not differentiated
        Simplify(),  # before recognise: patterns are written for simplified graphs
        *recognise(options),  # before differentiate: composites have better gradients than their parts
        Differentiate(seed),  # before precision: derivatives are taken of the mathematical graph
        update,  # before simplify: gradients of tied parameters meet in one scatter
        *compute(options),
    )


def infer(options: Options) -> Pipeline:
    """From a model to its logits."""
    return (Select(("logits",)), Simplify(), *recognise(options), *compute(options))


def evaluate(options: Options) -> Pipeline:
    """From a model to its loss."""
    return (Select(("loss",)), Simplify(), *recognise(options), *compute(options))


def recognise(options: Options) -> Pipeline:
    return (Recognise(),) if options.recognise else ()


def compute(options: Options) -> Pipeline:
    """From mathematics to kernels in order."""
    return (
        Precision(options.precision),  # before layout and fuse: they must see where values are rounded
        Simplify(),  # after the passes that write plainly: differentiate, update, precision
        Layout(),  # before lower: views are what regions read through
        *lower(options),
    )


def lower(options: Options) -> Pipeline:
    """From primitives to kernels in order."""
    fuse = (Fuse(),) if options.fuse else ()
    return (
        Lower(),  # before fuse: every primitive becomes a region, with or without fusion
        *fuse,  # before schedule: it decides what the nodes are
        Schedule(),  # last: memory is planned for this order
    )


def optimizer(part: Part, training: Training) -> Update:
    t = training
    return Update(part, t.beta1, t.beta2, t.eps, t.weight_decay, t.clip)
