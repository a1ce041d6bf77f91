"""Where a kernel comes from and what it costs: the comment above its source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from inspect import cleandoc
from textwrap import wrap

from gptc.codegen.filters import WIDTH, c_comment
from gptc.codegen.kernel import Call
from gptc.codegen.program import quote, shorten
from gptc.codegen.render import contract
from gptc.codegen.target import Target
from gptc.ir.analysis import cost
from gptc.ir.graph import Node
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.foreach import Foreach
from gptc.ir.ops.region import Region


def provenance(calls: Sequence[tuple[str, Call]], sources: Mapping[str, str], target: Target) -> list[str]:
    """Lines for `render_kernel`, from all calls of one kernel as (program, call), in program order.

    row_layer_norm_4ee542: 24 calls (12 in step, 12 in evaluate)
      models/gpt2-124m.yaml:33  a: layer_norm(x, ln_1.w, ln_1.b)
      computes  layer_norm: y = (x - mean) rstd w + b with the biased variance (Ba et al. 2016)
      moves     1.6 MB, 1.4 Mflop in its first call
      template  templates/cuda/row.cu.j2
      tuning    WIDTH 32
    """
    programs = Counter(program for program, _ in calls)
    kernel, nodes = calls[0][1].kernel, [call.node for _, call in calls]
    where = ", ".join(f"{count} in {program}" for program, count in programs.items())
    quotes = [line for line in dict.fromkeys(quote(node.span, sources) for node in nodes) if line]
    template = target.template(kernel.template)
    tuning = ", ".join(f"{name} {str(kernel.params[name]).lower()}" for name in contract(template).tunable)
    lines = [
        f"{kernel.name}: {len(calls)} call{'s' * (len(calls) > 1)} ({where})",
        *(f"  {c_comment(line)}" for line in quotes),
        *_computes(nodes),
        f"  moves     {_cost(nodes[0])} in its first call",
        f"  template  templates/{template}.j2",
        *([f"  tuning    {tuning}"] if tuning else []),
        *(f"  because   {note}" for note in dict.fromkeys(call.note for _, call in calls) if note),
    ]
    return [shorten(line, WIDTH - 3) for line in lines]


def _computes(nodes: Sequence[Node]) -> list[str]:
    """Each op with its mathematics: the first sentence of its docstring."""
    lines = []
    for name in dict.fromkeys(name for node in nodes for name in ops_of(node)):
        paragraph, _, _ = cleandoc(REGISTRY[name].__doc__ or "").partition("\n\n")
        sentence, _, _ = paragraph.partition(".  ")
        words = " ".join(sentence.rstrip(".").split())
        lines += wrap(f"{name}: {words}", WIDTH - 15, subsequent_indent="  ", break_long_words=False)
    return [f"  {'' if index else 'computes':8}  {line}" for index, line in enumerate(lines)]


def ops_of(node: Node) -> list[str]:
    """The ops that went into a node."""
    op = node.op.op if isinstance(node.op, Foreach) else node.op
    parts = op.parts if isinstance(op, Region) else ()
    return [part.split(" ")[0] for part in parts] or [op.name]


def _cost(node: Node) -> str:
    """What a node moves and computes."""
    spent = cost(node)
    return f"{_scaled(spent.nbytes)}B, {_scaled(spent.flops)}flop"


def _scaled(count: int) -> str:
    """`1.6 M`, for any unit to follow."""
    for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {prefix}"
    return f"{count} "
