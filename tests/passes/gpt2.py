"""GPT-2 as a forward graph, built by hand, and what the tests of passes need beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Value
from gptc.ir.ops.leaf import Buffer, Input
from gptc.ir.types import Array, Dim, DType
from gptc.options import Options
from gptc.passes import pipelines
from gptc.passes.copies import copies
from gptc.passes.manager import Context, run_pipeline


@dataclass(frozen=True)
class Training:
    """How the tests train."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    optimizer: str = "adamw"
    master_weights: bool = True
    rounding: str = "nearest"

    @property
    def rates(self) -> dict[str, float]:
        return {"beta1": self.beta1, "beta2": self.beta2, "eps": self.eps, "weight_decay": self.weight_decay}


@dataclass(frozen=True)
class Gpt2:
    """Sizes; `padded` is the vocabulary with its padding."""

    B: int = 2
    T: int = 5
    V: int = 11
    padded: int = 16
    L: int = 2
    H: int = 2
    C: int = 8

    def graph(self) -> Graph:
        """tokens, targets -> loss."""
        return _Model(self).build()


class _Model:
    def __init__(self, sizes: Gpt2) -> None:
        self.n = sizes
        self.b = Builder("gpt2")
        self.prefix = ""

    def param(self, key: str, *shape: int, init: str = "normal(0.02)") -> Value:
        key = self.prefix + key
        value: Value = self.b.buffer(label=key, key=key, shape=shape, valid=shape, init=init, decay=len(shape) > 1)
        return value

    def linear(self, x: Value, key: str, width: int) -> Value:
        w, bias = self.param(f"{key}.w", width, x.type.shape[-1]), self.param(f"{key}.b", width, init="zeros")
        y: Value = self.b.add(self.b.matmul(x, w, trans_b=True), bias, label=self.prefix + key)
        return y

    def norm(self, x: Value, key: str) -> Value:
        width = x.type.shape[-1]
        w, bias = self.param(f"{key}.w", width, init="ones"), self.param(f"{key}.b", width, init="zeros")
        y: Value = self.b.layer_norm(x, w, bias, label=self.prefix + key)[0]
        return y

    def attention(self, x: Value) -> Value:
        b, n = self.b, self.n
        size = n.C // n.H

        def heads(y: Value) -> Value:
            z: Value = b.transpose(b.reshape(y, shape=(n.B, n.T, n.H, size)), perm=(0, 2, 1, 3))
            return z

        q, k, v = map(heads, b.split(self.linear(x, "qkv", 3 * n.C), parts=3))
        scores = b.mul(b.matmul(q, k, trans_b=True), b.scalar(size**-0.5))
        out = b.matmul(b.softmax(b.causal_mask(scores)), v)
        return self.linear(b.reshape(b.transpose(out, perm=(0, 2, 1, 3)), shape=(n.B, n.T, n.C)), "proj", n.C)

    def block(self, x: Value) -> Value:
        x = self.b.add(x, self.attention(self.norm(x, "ln_1")))
        hidden = self.b.gelu(self.linear(self.norm(x, "ln_2"), "fc", 4 * self.n.C))
        y: Value = self.b.add(x, self.linear(hidden, "fc_proj", self.n.C))
        return y

    def build(self) -> Graph:
        b, n = self.b, self.n
        shape = Dim(n.B, "B"), Dim(n.T, "T")
        tokens, targets = (b.input(label=key, key=key, dtype=DType.i32, shape=shape) for key in ("tokens", "targets"))
        wte, wpe = self.param("wte", n.padded, n.C), self.param("wpe", n.T, n.C)
        x = b.add(b.embedding(wte, tokens), b.embedding(wpe, b.iota(count=n.T)))
        for layer in range(n.L):
            self.prefix = f"h.{layer}."
            with b.place(None, f"h.{layer}"):
                x = self.block(x)
        self.prefix = ""
        logits = b.matmul(self.norm(x, "ln_f"), wte, trans_b=True, label="logits")
        losses, _ = b.cross_entropy(logits, b.reshape(targets, shape=(n.B, n.T, 1)), classes=n.V)
        b.output("loss", b.reduce_mean(losses))
        return b.build()


def compiled(graph: Graph, options: Options, training: Training, context: Context | None = None) -> dict[str, Graph]:
    """Every program, scheduled."""
    context = context or Context(options)
    return {
        name: run_pipeline(replace(graph, name=name), passes, context)
        for name, passes in pipelines(options, training).items()
    }


def feeds(graph: Graph, seed: int, classes: int) -> dict[str, Array]:
    """Normal weights and their copies, non-negative state, indices below `classes`, and 1 for the scalars."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for node in graph.nodes:
        if isinstance(node.op, (Input, Buffer)):
            kind = node.results[0].type
            if isinstance(node.op, Buffer) and node.op.role == "copy":
                continue
            if not kind.dtype.is_float:
                found[node.op.key] = rng.integers(0, classes, kind.shape, np.int32)
            elif kind.rank == 0:
                found[node.op.key] = np.ones((), np.float32)
            else:
                noise = rng.standard_normal(kind.shape) / np.sqrt(kind.shape[-1])
                state = isinstance(node.op, Buffer) and node.op.role == "state"
                found[node.op.key] = (np.abs(noise) if state else noise).astype(np.float32)
    return found | fresh_copies(graph, found)


def fresh_copies(graph: Graph, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The copies of parameters that `graph` reads, by their key."""
    return {f"{key}.{node.results[0].type.dtype}": arrays[key] for key, node in copies(graph).items()}


def tolerance(graph: Graph, reference: Array) -> float:
    """What rounding in float64 may change when sums are done in another order: a rounding a node and term, all of
    one sign, relative to the largest finite number of the result."""
    longest = max(v.type.count for v in graph.values())
    largest = float(np.max(np.abs(reference), initial=0, where=np.isfinite(reference)))
    return float(np.finfo(np.float64).eps) * longest * len(graph.nodes) * (1 + largest)


def agree(before: Mapping[str, Array], after: Mapping[str, Array], graph: Graph) -> None:
    """Every output that both have is the same up to rounding."""
    for name in before.keys() & after.keys():
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=tolerance(graph, before[name]), err_msg=name)
