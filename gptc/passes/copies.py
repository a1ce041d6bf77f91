"""Parameters that programs read rounded are kept rounded, beside the parameters themselves.

Reads:    a graph at stage `precise`.       Leaves: the same stage.
Does:     `use`      turn a cast of a parameter into a buffer `<key>.<dtype>`, so that no program casts a weight again
          `refresh`  a program of its own: each of those buffers from its parameter, after parameters were set;
                     rounded stochastically, with the numbers that the last update has drawn
Does not: keep the buffers up to date: `update` writes them together with the new parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from gptc.ir.analysis import buffers
from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node, Value
from gptc.ir.ops.elementwise import Cast
from gptc.ir.ops.leaf import Buffer
from gptc.ir.types import DType
from gptc.passes.differentiate import parameters
from gptc.passes.manager import Context

SEEDS = "seeds"


@dataclass(frozen=True)
class Copies:
    """See the module docstring."""

    name: ClassVar[str] = "copies"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    part: Literal["use", "refresh"] = "use"
    rounding: str = "nearest"
    """How `refresh` rounds: `nearest` or `stochastic`."""

    def run(self, graph: Graph, context: Context) -> Graph:
        used = replace(graph, nodes=tuple(_kept(graph, context)))
        return used if self.part == "use" else self.refresh(used)

    def refresh(self, graph: Graph) -> Graph:
        """A program of its own: parameters in, copies out."""
        b = Builder(graph.name)
        masters = parameters(graph)
        for node in masters.values():
            b.add_node(node)
        seeds: Mapping[str, Value] = {}
        if self.rounding == "stochastic":
            seeds = streams(b, masters, last_seeds(b, masters))
        for key, copy in copies(graph).items():
            b.add_node(copy)
            with b.place(copy.span, f"refresh {key}"):
                (value,), (master,), label = copy.results, masters[key].results, f"{copy.name}.new"
                if seeds:
                    new = b.stochastic_round(master, seeds[key], label=label)
                else:
                    new = b.cast(master, dtype=value.type.dtype, label=label)
                b.output(_key(copy), new)
        return b.build("precise")


def copies(graph: Graph) -> dict[str, Node]:
    """Key of a parameter -> the buffer that is its copy."""
    found = buffers(graph, "copy")
    return {key.removesuffix(f".{n.results[0].type.dtype}"): n for key, n in found.items()}


def last_seeds(b: Builder, params: Mapping[str, Node]) -> Value:
    """The state buffer `seeds` with those that the last update has rounded copies with, one a parameter."""
    (value,) = b.apply(Buffer(SEEDS, "state", DType.i32, (len(params),)), (), SEEDS)
    return value


def streams(b: Builder, params: Mapping[str, Node], seeds: Value) -> dict[str, Value]:
    """The seed of each parameter: an element of one tensor, so that all updates share their kernels."""
    return {key: b.view(seeds, offset=number) for number, key in enumerate(params)}


def _kept(graph: Graph, context: Context) -> Iterator[Node]:
    """The nodes with buffers in place of casts of parameters."""
    for node in graph.nodes:
        maker = graph.producer[node.operands[0].name] if isinstance(node.op, Cast) else node
        if maker is not node and isinstance(maker.op, Buffer) and maker.op.role == "param":
            kind = node.results[0].type
            key = f"{maker.op.key}.{kind.dtype}"
            context.done("copies", node, f"is kept with %{maker.name}", kind.nbytes)
            op = Buffer(key=key, role="copy", dtype=kind.dtype, shape=kind.shape)
            yield replace(node, op=op, operands=())
        else:
            yield node


def _key(node: Node) -> str:
    assert isinstance(node.op, Buffer)
    return node.op.key
