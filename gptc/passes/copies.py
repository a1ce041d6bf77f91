"""Parameters that programs read rounded are kept rounded, beside the parameters themselves.

Reads:    a graph at stage `precise`.       Leaves: the same stage.
Does:     `use`      turn a cast of a parameter into a buffer `<key>.<dtype>`, so that no program casts a weight again
          `refresh`  a program of its own: each of those buffers from its parameter, after parameters were set
Does not: keep the buffers up to date: `update` writes them together with the new parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from gptc.ir.build import Builder
from gptc.ir.graph import Graph, Node
from gptc.ir.ops.elementwise import Cast
from gptc.ir.ops.leaf import Buffer
from gptc.passes.differentiate import parameters
from gptc.passes.manager import Context


@dataclass(frozen=True)
class Copies:
    """See the module docstring."""

    name: ClassVar[str] = "copies"
    stages: ClassVar[tuple[str, str]] = ("precise", "precise")

    part: Literal["use", "refresh"] = "use"

    def run(self, graph: Graph, context: Context) -> Graph:
        used = replace(graph, nodes=tuple(_kept(graph, context)))
        return used if self.part == "use" else _refresh(used)


def copies(graph: Graph) -> dict[str, Node]:
    """Key of a parameter -> the buffer that is its copy."""
    found = [n for n in graph.nodes if isinstance(n.op, Buffer) and n.op.role == "copy"]
    return {_key(n).removesuffix(f".{n.results[0].type.dtype}"): n for n in found}


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


def _refresh(graph: Graph) -> Graph:
    b = Builder(graph.name)
    masters = parameters(graph)
    for node in masters.values():
        b.add_node(node)
    for key, copy in copies(graph).items():
        b.add_node(copy)
        with b.place(copy.span, f"refresh {key}"):
            (value,) = copy.results
            b.output(_key(copy), b.cast(masters[key].results[0], dtype=value.type.dtype, label=f"{copy.name}.new"))
    return b.build("precise")


def _key(node: Node) -> str:
    assert isinstance(node.op, Buffer)
    return node.op.key
