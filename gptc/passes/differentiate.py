"""Reverse-mode differentiation of the loss with respect to every parameter.

Reads:    a graph at stage `built` with an output `loss` of rank 0.       Leaves: stage `differentiated`.
Does:     append the gradient of every node between a parameter and the loss; add an output `grad:<key>` for every
          parameter.  Contributions to one gradient are summed in the order in which they are met, walking backwards;
          a gradient that an op broadcast is summed back here, so that no rule has to.
Does not: save memory or merge kernels: the backward nodes are ordinary ones for the passes that follow.

Griewank and Walther, Evaluating Derivatives, 2008, chapter 3.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gptc.errors import Diagnostic
from gptc.ir.analysis import buffers
from gptc.ir.build import Builder, extend
from gptc.ir.graph import Graph, Node, Output, Value
from gptc.ir.op import Op
from gptc.ir.types import TensorType
from gptc.passes.manager import Context, UserFault

GRADIENT = "grad:"
"""Prefix of the outputs that hold gradients."""
LOSS_SCALE = "loss_scale"
"""Input: a factor on all gradients until the update."""


@dataclass(frozen=True)
class Differentiate:
    """Gradients of `loss` with respect to every parameter, times `seed` and, where they are `scaled`, a loss scale."""

    name: ClassVar[str] = "differentiate"
    stages: ClassVar[tuple[str, str]] = ("built", "differentiated")

    seed: float = 1.0
    """The gradient of the loss itself."""
    scaled: bool = False
    """Times the input `loss_scale`, which lifts small gradients into the range of f16 (Micikevicius et al. 2018)."""

    def run(self, graph: Graph, context: Context) -> Graph:
        loss = _loss(graph)
        path = _path(graph, loss)
        _check_rules(path)
        b = extend(graph)
        tape = _Tape(b, wanted={v.name for n in (*parameters(graph).values(), *path) for v in n.results})
        seed = b.scalar(self.seed, loss.type.dtype)
        tape.add(loss, b.mul(seed, b.input(key=LOSS_SCALE, label=LOSS_SCALE)) if self.scaled else seed)
        for node in reversed(path):
            context.node = node
            with b.place(node.span, f"d {node.origin}".rstrip()):
                tape.step(node)
        for key, node in parameters(graph).items():
            context.node = node
            with b.place(node.span, f"d {node.origin}".rstrip()):
                if not tape.has(node.results[0]):
                    context.note(self.name, node, "the loss does not depend on this parameter: its gradient is zero")
                b.output(GRADIENT + key, tape.gradient(node.results[0]))
        return tape.named().build("differentiated")


def parameters(graph: Graph) -> dict[str, Node]:
    """Key -> buffer of everything that is trained, in the order of the graph."""
    return buffers(graph, "param")


def _loss(graph: Graph) -> Value:
    for output in graph.outputs:
        if output.name == "loss":
            if output.value.type.rank != 0:
                span = graph.producer[output.value.name].span
                raise UserFault.of(f"loss must be a single number, but it is {output.value.type}", span)
            return output.value
    raise UserFault.of("nothing to train: the graph has no output `loss`")


def _path(graph: Graph, loss: Value) -> list[Node]:
    """The nodes that depend on a parameter and that the loss depends on, in execution order."""
    # An op that is not differentiable stops the gradient: nothing behind it counts as depending on a parameter.
    trained = {n.name for n in parameters(graph).values()}
    for node in graph.nodes:
        if node.op.differentiable and any(v.name in trained for v in node.operands):
            trained.update(v.name for v in node.results if v.type.dtype.is_float)
    wanted = {loss.name}
    path: list[Node] = []
    for node in reversed(graph.nodes):
        if node.operands and any(v.name in wanted and v.name in trained for v in node.results):
            path.append(node)
            wanted.update(v.name for v in node.operands)
    return path[::-1]


def _check_rules(path: Sequence[Node]) -> None:
    """Every op on the path needs a gradient; report all that have none at once."""
    missing = [n for n in path if type(n.op).vjp is Op.vjp]
    if missing:
        raise UserFault(
            tuple(
                Diagnostic(f"{n.op.name} has no gradient, but %{n.name} lies between a parameter and the loss", n.span)
                for n in missing
            )
        )


class _Tape:
    """Gradients while they are being collected, for the values `wanted`."""

    def __init__(self, b: Builder, wanted: Collection[str]) -> None:
        self.b = b
        self.wanted = wanted
        self.forward = len(b.nodes)
        self.parts: dict[str, list[Value]] = {}
        """Forward value -> the contributions to its gradient so far."""
        self.totals: dict[str, str] = {}
        self.terms: dict[str, str] = {}
        """Name given by the builder -> a name that says what it is the gradient of, or a term of one."""

    def has(self, value: Value) -> bool:
        return value.name in self.parts

    def add(self, value: Value, part: Value) -> None:
        """One more contribution to the gradient of `value`."""
        parts = self.parts.setdefault(value.name, [])
        parts.append(sum_to(self.b, part, value.type))
        self.terms.setdefault(parts[-1].name, f"d.{value.name}.{len(parts)}")

    def gradient(self, value: Value) -> Value:
        """The sum of the contributions; zeros when there are none."""
        if not self.has(value):
            zero = self.b.scalar(0, value.type.dtype)
            self.add(value, self.b.broadcast_to(zero, shape=value.type.shape))
        total, *rest = self.parts[value.name]
        for part in rest:
            total = self.b.add(total, part)
        self.parts[value.name] = [total]
        self.totals.setdefault(total.name, f"d.{value.name}")
        return total

    def step(self, node: Node) -> None:
        """Pull the gradients of the results of `node` back to its operands."""
        grads = [self.gradient(v) if self.has(v) else None for v in node.results]
        if all(g is None for g in grads):
            return
        for value, part in zip(node.operands, node.op.vjp(self.b, node.operands, node.results, grads), strict=True):
            if part is not None and value.name in self.wanted:
                self.add(value, part)

    def named(self) -> Builder:
        """The same nodes and outputs, the backward ones named `d.<what they are a gradient of>` where that is known."""
        b = Builder(self.b.name)
        for node in self.b.nodes[: self.forward]:
            b.add_node(node)
        names = self.terms | self.totals
        new: dict[str, Value] = {}
        for node in self.b.nodes[self.forward :]:
            for v in node.results:
                new[v.name] = replace(v, name=b.fresh(names.get(v.name, v.name)))
            operands = tuple(new.get(v.name, v) for v in node.operands)
            b.add_node(replace(node, operands=operands, results=tuple(new[v.name] for v in node.results)))
        b.outputs = [Output(o.name, new.get(o.value.name, o.value)) for o in self.b.outputs]
        return b


def sum_to(b: Builder, grad: Value, wanted: TensorType) -> Value:
    """Undo a broadcast: sum `grad` over the axes that `wanted` lacks or has with size 1."""
    shape = (1,) * (grad.type.rank - wanted.rank) + tuple(map(int, wanted.shape))
    axes = [i for i, (have, want) in enumerate(zip(grad.type.shape, shape, strict=True)) if have != want]
    if axes:
        kept = [i for i in range(grad.type.rank) if i not in axes]
        if axes not in (list(range(len(axes))), list(range(len(kept), grad.type.rank))):
            grad = b.transpose(grad, perm=(*axes, *kept))
            axes = list(range(len(axes)))
        grad = b.reduce_sum(grad, axes=tuple(axes))
    return grad if grad.type.shape == wanted.shape else b.reshape(grad, shape=wanted.shape)
