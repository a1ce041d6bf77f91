"""Outputs are computed right where they belong; where that is not possible, a copy at the end of the program.

A value belongs to a buffer when it is an output of that buffer's name, and may be computed there if nobody
reads the old contents any more.  Any other output belongs to a slot of the `io` segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gptc.ir.analysis import buffers, handovers, roots
from gptc.ir.body import Body, Stmt
from gptc.ir.build import Builder
from gptc.ir.compose import bind
from gptc.ir.graph import Graph, Output, Value
from gptc.ir.ops.leaf import Buffer, Constant, Leaf
from gptc.ir.ops.region import Map
from gptc.ir.ops.shape import View
from gptc.passes.manager import Context


def append_copies(graph: Graph, context: Context) -> Graph:
    """End the program with a copy for every output that cannot be computed where it belongs."""
    copies = tuple(_misplaced(graph))
    if not copies:
        return graph
    b = Builder(graph.name)
    for node in graph.nodes:
        b.add_node(node)
    # Copies overwrite buffers, so what is read from buffers is set aside first.
    sources = {o.name: _copy(b, o.value, f"{o.name}.kept") if _is_old(graph, o) else o.value for o in copies}
    stored = {name: _copy(b, value, f"{name}.out") for name, value in sources.items()}
    for name, value in stored.items():
        message = f"output {name} is copied: it cannot be computed in place"
        context.missed("memory", value, message, value.type.nbytes)
    outputs = tuple(replace(o, value=stored.get(o.name, o.value)) for o in graph.outputs)
    return replace(graph, nodes=tuple(b.nodes), outputs=outputs)


def _misplaced(graph: Graph) -> Iterator[Output]:
    """The outputs that need a copy."""
    root = roots(graph)
    leaves = {key: node.name for key, node in buffers(graph).items()}
    last = _last_reads(graph, root)
    position = {n.name: i for i, n in enumerate(graph.nodes)}
    stored = replace(graph, outputs=tuple(o for o in graph.outputs if o.value.name in root))  # constants are not
    taken_over = {result: root[operand] for result, operand in handovers(stored).items()}
    for output in graph.outputs:  # old contents that leave under another name are read at the very end
        base = root.get(output.value.name)
        if base is not None and base in leaves.values() and base != leaves.get(output.name):
            last[base] = len(graph.nodes)
    claimed: set[str] = set()
    for output in graph.outputs:
        value, base, buffer = output.value, root.get(output.value.name), leaves.get(output.name)
        if value.name == buffer:
            continue  # the buffer keeps what it has
        producer = graph.producer[base] if base is not None else None
        fits = base == value.name and producer is not None and not isinstance(producer.op, Leaf) and base not in claimed
        if fits and producer is not None and buffer is not None:
            time = position[producer.name]
            fits = last.get(buffer, -1) < time or (last[buffer] == time and taken_over.get(value.name) == buffer)
        if fits:
            claimed.add(value.name)
        else:
            yield output


def _last_reads(graph: Graph, root: dict[str, str]) -> dict[str, int]:
    """Storage -> the number of the last node that reads it."""
    last: dict[str, int] = {}
    for time, node in enumerate(graph.nodes):
        if not isinstance(node.op, View):
            last |= {root[v.name]: time for v in node.operands if v.name in root}
    return last


def _is_old(graph: Graph, output: Output) -> bool:
    """Whether an output is what a buffer held before the program ran."""
    base = roots(graph).get(output.value.name)
    return base is not None and isinstance(graph.producer[base].op, Buffer)


def _copy(b: Builder, value: Value, stem: str) -> Value:
    """A map that copies `value`, which may be strided, or spells it if it is a constant."""
    node = next(n for n in b.nodes if value in n.results)
    code = Body(("x",), (Stmt("y", "copy", ("x",)),), ("y",))
    if isinstance(node.op, Constant):
        code = bind(code, {"x": node.op.value})
    op = Map(body=code, dtypes=(str(value.type.dtype),), parts=("copy",))
    with b.place(node.span, node.origin):
        (copy,) = b.apply(op, (value,) if code.inputs else (), stem)
    return copy
