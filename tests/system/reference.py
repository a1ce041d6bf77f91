"""What a training step of the tiny model computes, found without the passes that the compiler applies to it.

Losses are those of the graph as the model file has it, gradients are checked against central differences of that
loss, and the update is AdamW written down here once more, all in float64.  `wrong_outputs` compares any graph of any
pipeline with them, by the names of its outputs.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np

from gptc.ir.analysis import buffers
from gptc.ir.graph import Graph
from gptc.ir.interp import interpret
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.types import Array, DType, TensorType
from gptc.model import Description, build_graph, load_description
from gptc.options import Options
from gptc.passes import pipelines
from gptc.passes.differentiate import GRADIENT, Differentiate
from gptc.passes.manager import Context, Pass, run_pass, run_pipeline
from tests.system.workshop import TINY

BATCH, SEQ = 2, 16
ROUTES = {
    "fused": ("step", Options(batch=BATCH, seq=SEQ)),
    "primitive": ("step", Options(batch=BATCH, seq=SEQ, recognise=False, fuse=False)),
    "micro": ("micro_step", Options(batch=BATCH, seq=SEQ, micro_steps=2)),
}
"""Ways from the model to kernels: a program and the options that make it."""
LR, STEP = 0.01, 3.0


@cache
def tiny() -> Description:
    return load_description(TINY, ())


@cache
def forward() -> Graph:
    """The model as it is written, with its loss."""
    return build_graph(tiny(), BATCH, SEQ)


@cache
def stages(route: str) -> dict[str, Graph]:
    """Name of a pass -> the graph that it leaves (of two runs the last)."""
    program, options = ROUTES[route]
    found: dict[str, Graph] = {}

    def keep(pass_: Pass, before: Graph, after: Graph) -> None:
        found[pass_.name] = after

    run_pipeline(forward(), pipelines(options, tiny().train)[program], Context(options), observer=keep)
    return found


def feeds(graph: Graph) -> dict[str, Array]:
    """Arrays for the leaves of any graph of the model, the same for the same leaf.

    Weights are far from their initial values, so that every path of the model matters; padding is not zero, so that
    it shows when it is read.
    """
    return {n.op.key: _feed(n.op.key, n.results[0].type) for n in graph.nodes if isinstance(n.op, (Input, Buffer))}


def _feed(key: str, kind: TensorType) -> Array:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    scalars = {"lr": LR, "step": STEP, "first": 1.0, "max_loss": 0.0, "max_norm": 0.0}
    if key in scalars:
        return np.asarray(scalars[key], np.float32)
    if not kind.dtype.is_float:
        return rng.integers(0, tiny().dims["V"], kind.shape, np.int32)
    x = rng.standard_normal(kind.shape)
    if key.endswith(".v"):
        x = np.square(x) + 0.1
    elif kind.rank == 2:
        x = x / np.sqrt(kind.shape[-1])
    else:
        x = 0.2 * x + (".ln_" in f".{key}" and key.endswith(".w"))
    return x.astype(np.float32)


def rounding(graph: Graph, dtype: DType) -> float:
    """How far two ways of computing an output of `graph` may be apart, as a share of its largest element.

    A sum of n terms loses about sqrt(n) eps (Higham 2002, section 2.8); the losses of nodes on the longest path add up.
    """
    depth: dict[str, int] = {}
    terms = max(v.type.count // int(v.type.shape[-1]) for v in graph.values() if v.type.rank)
    terms = max(terms, *(int(d) for v in graph.values() for d in v.type.shape))
    for node in graph.nodes:
        level = 1 + max((depth[v.name] for v in node.operands), default=0)
        depth |= {v.name: level for v in node.results}
    return dtype.eps * max(depth.values()) * float(np.sqrt(terms))


# -- gradients ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slope:
    """The derivative of the loss along a unit direction, from central differences, and how far it may be off."""

    direction: Array
    value: float
    error: float

    def matches(self, gradient: Array, slack: float = 0.0) -> bool:
        """`slack` is what the gradient itself may be off, as a share of its norm."""
        found = float(np.sum(gradient * self.direction))
        return abs(found - self.value) <= self.error + slack * float(np.linalg.norm(gradient))


H = 1e-4
ENTRIES = 3


@cache
def slopes() -> dict[str, tuple[Slope, ...]]:
    """For every parameter: along a random direction, so that no entry escapes, and along some of its axes."""
    graph = forward()
    arrays = {k: a.astype(np.float64) if a.dtype.kind == "f" else a for k, a in feeds(graph).items()}
    noise = rounding(graph, DType.f64)
    found: dict[str, tuple[Slope, ...]] = {}
    for node in buffers(graph).values():
        assert isinstance(node.op, Buffer)
        key, base = node.op.key, arrays[node.op.key]
        rng = np.random.default_rng(zlib.crc32(key.encode()) + 1)
        dense = rng.standard_normal(base.shape)
        directions = [np.asarray(dense / np.linalg.norm(dense))]
        directions += [_axis(base.shape, int(i)) for i in rng.choice(base.size, ENTRIES, replace=False)]
        found[key] = tuple(_slope(graph, arrays, key, d, noise) for d in directions)
    return found


def _axis(shape: tuple[int, ...], index: int) -> Array:
    unit = np.zeros(shape)
    unit.reshape(-1)[index] = 1
    return unit


def _slope(graph: Graph, arrays: dict[str, Array], key: str, direction: Array, noise: float) -> Slope:
    """Richardson extrapolation of two central differences: the difference between them bounds what is left."""

    def loss(t: float) -> float:
        return float(interpret(graph, arrays | {key: arrays[key] + t * direction}, wide=True)["loss"])

    fine, coarse = ((loss(h) - loss(-h)) / (2 * h) for h in (H, 2 * H))
    return Slope(direction, (4 * fine - coarse) / 3, abs(coarse - fine) + 2 * noise * abs(loss(0.0)) / H)


@cache
def gradients() -> dict[str, Array]:
    """Of the model as it is written; that they are right is what `test_whole_model_gradients` shows."""
    graph = run_pass(forward(), Differentiate(), Context())
    found = interpret(graph, feeds(graph), wide=True)
    return {name.removeprefix(GRADIENT): a for name, a in found.items() if name.startswith(GRADIENT)}


# -- the whole step ----------------------------------------------------------------------------------


@cache
def expected(route: str) -> dict[str, Array]:
    """Outputs of the program of a route, by name."""
    graph = stages(route)["schedule"]
    arrays = {k: a.astype(np.float64) for k, a in feeds(graph).items()}
    found = {"loss": interpret(forward(), feeds(forward()), wide=True)["loss"]}
    if route == "micro":
        return found | {f"{key}.grad": g / ROUTES[route][1].micro_steps for key, g in gradients().items()}
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients().values()))
    train = tiny().train
    assert norm > train.clip, "clipping would not show"
    for key, gradient in gradients().items():
        decay = train.weight_decay if gradient.ndim == 2 else 0.0
        p, m, v = (arrays[k] for k in (key, f"{key}.m", f"{key}.v"))
        g = gradient * train.clip / norm
        m = train.beta1 * m + (1 - train.beta1) * g
        v = train.beta2 * v + (1 - train.beta2) * g**2
        unbiased = m / (1 - train.beta1**STEP), v / (1 - train.beta2**STEP)
        lr = float(np.float32(LR))
        p = p - lr * (unbiased[0] / (np.sqrt(unbiased[1]) + train.eps) + decay * p)
        found |= {key: p, f"{key}.m": m, f"{key}.v": v}
    return found | {"norm": norm, "clip_scale": train.clip / norm}


def wrong_outputs(graph: Graph, route: str) -> list[str]:
    """Names of the outputs of `graph`, one of the route's, that are not what the model's mathematics asks for."""
    found = interpret(graph, feeds(graph), wide=True)
    share = rounding(graph, DType.f64)
    return [name for name, a in found.items() if not _is_right(name, a, route, share)]


def _is_right(name: str, found: Array, route: str, share: float) -> bool:
    if name.startswith(GRADIENT):
        scale = ROUTES[route][1].micro_steps
        return all(s.matches(scale * found, share) for s in slopes()[name.removeprefix(GRADIENT)])
    wanted = expected(route)[name]
    return bool(np.abs(found - wanted).max() <= share * np.abs(wanted).max())
