"""Where a kernel comes from and what it costs: the comment above its source."""

from __future__ import annotations

from collections.abc import Sequence

from gptc.codegen.kernel import Call
from gptc.ir.graph import Node
from gptc.ir.ops.region import Region


def provenance(calls: Sequence[Call]) -> list[str]:
    """Lines for `render_kernel`, from all calls of one kernel in program order.

    row_layer_norm_4ee542
      12 uses    h.0 .. h.11
      layer_norm models/gpt2-124m.yaml:31
      moves      1.6 MB, 1.4 Mflop a call
      template   row
    """
    kernel = calls[0].kernel
    places = list(dict.fromkeys(c.node.origin for c in calls if c.node.origin))
    rows = [
        (
            f"{len(calls)} use{'s' * (len(calls) > 1)}",
            " .. ".join(dict.fromkeys((places[0], places[-1]))) if places else "",
        )
    ]
    rows += [(name, place) for name, _, place in (part.partition(" ") for part in _parts(calls))]
    costs = list(dict.fromkeys(_cost(c.node) for c in calls))
    rows.append(("moves", f"{costs[0]} a call" if len(costs) == 1 else f"{costs[0]} in its first call"))
    rows.append(("template", kernel.template))
    width = max(len(head) for head, _ in rows)
    return [kernel.name, *(f"  {head:{width}s}  {text}".rstrip() for head, text in rows)]


def _parts(calls: Sequence[Call]) -> list[str]:
    """The ops that the kernel computes, each with its line in the model."""
    found: dict[str, None] = {}
    for call in calls:
        node = call.node
        if isinstance(node.op, Region) and node.op.parts:
            found.update(dict.fromkeys(node.op.parts))
        else:
            found[f"{node.op.name} {node.span.file}:{node.span.line}" if node.span else node.op.name] = None
    return list(found)


def _cost(node: Node) -> str:
    """Bytes of operands and results, each once, and floating-point operations."""
    tensors = {v.name: v.type.nbytes for v in (*node.operands, *node.results)}
    return f"{_scaled(sum(tensors.values()))}B, {_scaled(node.op.flops(*(v.type for v in node.operands)))}flop"


def _scaled(count: int) -> str:
    """`1.6 M`, for any unit to follow."""
    for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {prefix}"
    return f"{count} "
