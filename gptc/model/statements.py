"""The graph section as statements and blocks, before any tensor exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gptc.errors import Span
from gptc.model import schema, tree
from gptc.model.expression import Expr, parse_expression
from gptc.model.names import INPUTS, name_problem
from gptc.model.params import repeat_count
from gptc.model.source import Report, quoted


@dataclass(frozen=True)
class Target:
    """A name on the left of a statement."""

    name: str
    span: Span


@dataclass(frozen=True)
class Statement:
    """`targets: value`; None when either side has a mistake."""

    targets: tuple[Target, ...]
    value: Expr | None


@dataclass(frozen=True)
class Block:
    """Statements and blocks in order; `repeat` is None for a block that stands for itself."""

    name: str
    body: tuple[Statement | Block, ...]
    repeat: int | None
    span: Span


def parse_graph(root: tree.Mapping, graph: schema.Block, dims: Mapping[str, int], report: Report) -> Block:
    """The `graph:` section; mistakes are reported and left out."""
    return _block(root, graph, ("graph",), dims, report)


def _block(root: tree.Mapping, block: schema.Block, path: tree.Path, dims: Mapping[str, int], report: Report) -> Block:
    key = root.key(path)
    repeat = None
    if block.repeat is not None:
        repeat = 1
        with report.collect():
            repeat = repeat_count(root, path, dims)
    body: list[Statement | Block] = []
    taken: dict[str, Span] = {}
    for name, child in block.children.items():
        inside = (*path, name)
        targets = _targets(root.key(inside))
        sound = all([_check_target(target, taken, dims, report) for target in targets])
        if isinstance(child, schema.Block):
            body.append(_block(root, child, inside, dims, report))
        else:
            value = None
            with report.collect():
                value = parse_expression(root.scalar(inside))
            body.append(Statement(targets, value if sound else None))
    return Block(key.text, tuple(body), repeat, key.span)


def _targets(key: tree.Scalar) -> tuple[Target, ...]:
    """`q, k, v` as three names, each with its place."""
    found, offset = [], 0
    for part in key.text.split(","):
        name = part.strip()
        start = offset + len(part) - len(part.lstrip())
        found.append(Target(name, key.at(start, len(name)) if name else key.span))
        offset += len(part) + 1
    return tuple(found)


def _check_target(target: Target, taken: dict[str, Span], dims: Mapping[str, int], report: Report) -> bool:
    """Report a name that a statement cannot define here."""
    first = taken.setdefault(target.name, target.span)
    if problem := name_problem(target.name):
        report.error(problem, target.span)
    elif target.name in dims or target.name in INPUTS or target.name == "B":
        kind = "an input" if target.name in INPUTS else "a dim"
        report.error(f"{quoted(target.name)} is {kind} and cannot be assigned", target.span)
    elif first is not target.span:
        message = f"{quoted(target.name)} is assigned twice in this block: first on line {first.line}"
        report.error(message, target.span, "give one of them another name")
    else:
        return True
    return False
