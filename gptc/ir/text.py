"""The text form `.gir`: print and parse.  `parse(print(g)) == g` for every graph.

graph step at fused
%tokens: i32[B=4,T=64] = input() {name="tokens"}
%a: f32[4,64], %a.mean: f32[4,1] = row(%x, %w) {body="(x w) { ... } -> (y mean)"} @"models/m.yaml":31:7:5 in "h.0"
return %loss as "loss"
place %a in arena+1024
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from typing import Any

from gptc.errors import InputError, Span, did_you_mean
from gptc.ir.body import Body
from gptc.ir.graph import STAGES, Graph, Node, Output, Placement, Value
from gptc.ir.op import Op
from gptc.ir.ops import REGISTRY
from gptc.ir.types import Dim, DType, TensorType


def print_graph(graph: Graph) -> str:
    """One line a node; the inverse of `parse_graph`."""
    lines = [f"graph {graph.name} at {graph.stage}"]
    lines += [print_node(n) for n in graph.nodes]
    lines += [f"return %{o.value.name} as {json.dumps(o.name)}" for o in graph.outputs]
    lines += [f"place %{name} in {place}" for name, place in graph.plan.items()]
    return "\n".join(lines) + "\n"


def print_node(node: Node) -> str:
    results = ", ".join(f"{v}: {v.type}" for v in node.results)
    text = f"{results} = {node.op.name}({', '.join(map(str, node.operands))})"
    text += _print_attributes(node.op)
    if node.span:
        text += f" @{json.dumps(node.span.file)}:{node.span.line}:{node.span.col}:{node.span.width}"
    return text + (f" in {json.dumps(node.origin)}" if node.origin else "")


def _print_attributes(op: Op) -> str:
    """` {key=value, ...}`, nothing for an op without attributes."""
    pairs = [f"{key}={_print_attribute(value)}" for key, value in op.attributes().items()]
    return f" {{{', '.join(pairs)}}}" if pairs else ""


def _print_attribute(value: Any) -> str:
    if isinstance(value, Op):
        return json.dumps(value.name + _print_attributes(value))
    if isinstance(value, (Body, DType)):
        return json.dumps(str(value))
    return json.dumps(value)


def parse_graph(text: str, file: str = "<gir>") -> Graph:
    """Read one graph; InputError with the line of the first mistake."""
    graphs = parse_graphs(text, file)
    if len(graphs) != 1:
        raise InputError.of(f"expected one graph, found {len(graphs)}", Span(file, 1))
    return graphs[0]


def parse_graphs(text: str, file: str = "<gir>") -> tuple[Graph, ...]:
    """Read every graph of a file."""
    done: list[Graph] = []
    reader: _Reader | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            if line.startswith("graph "):
                done += [reader.graph()] if reader else []
                reader = _Reader(line)
            elif reader is None:
                raise ValueError("a file begins with `graph NAME at STAGE`")
            else:
                reader.line(line)
        except (ValueError, RecursionError) as error:
            hint = error.hint if isinstance(error, _Unknown) else None
            raise InputError.of(f"cannot read this line: {error}", Span(file, number), hint) from error
    return tuple(done + ([reader.graph()] if reader else []))


class _Unknown(ValueError):
    """A name that is not among those it could be."""

    def __init__(self, message: str, name: str, names: Iterable[str]) -> None:
        super().__init__(message)
        self.hint = did_you_mean(name, names)


_NODE = re.compile(
    r"(?P<results>.+?) = (?P<op>\w+)\((?P<operands>[^)]*)\)"
    r"(?: \{(?P<attributes>.*)\})?"
    r'(?: @(?P<file>"(?:[^"\\]|\\.)*"):(?P<line>\d+):(?P<col>\d+):(?P<width>\d+))?'
    r'(?: in (?P<origin>"(?:[^"\\]|\\.)*"))?'
)


class _Reader:
    """The graph being read."""

    def __init__(self, header: str) -> None:
        match = re.fullmatch(r"graph (\S+) at (\w+)", header)
        if match is None or match[2] not in STAGES:
            raise ValueError(f"not a graph header; stages are {', '.join(STAGES)}")
        self.name, self.stage = match.groups()
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.outputs: list[Output] = []
        self.plan: dict[str, Placement] = {}

    def graph(self) -> Graph:
        return Graph(self.name, tuple(self.nodes), tuple(self.outputs), self.stage, self.plan)

    def value(self, name: str) -> Value:
        if name not in self.values:
            raise _Unknown(f"%{name} is not defined before this line", name, self.values)
        return self.values[name]

    def line(self, line: str) -> None:
        if match := re.fullmatch(r'return %(\S+) as ("(?:[^"\\]|\\.)*")', line):
            self.outputs.append(Output(json.loads(match[2]), self.value(match[1])))
        elif match := re.fullmatch(r"place %(\S+) in (\w+)\+(\d+)", line):
            self.plan[self.value(match[1]).name] = Placement(match[2], int(match[3]))
        elif match := _NODE.fullmatch(line):
            self.node(match)
        else:
            raise ValueError("expected a node, `return` or `place`")

    def node(self, match: re.Match[str]) -> None:
        operands = tuple(self.value(n.strip()[1:]) for n in match["operands"].split(",") if n.strip())
        results = tuple(_parse_value(t) for t in re.findall(r"%\S+: [^%]+", match["results"]))
        for value in results:
            if value.name in self.values:
                raise ValueError(f"%{value.name} is defined twice")
            self.values[value.name] = value
        span = None
        if match["file"]:
            span = Span(json.loads(match["file"]), int(match["line"]), int(match["col"]), int(match["width"]))
        origin = json.loads(match["origin"]) if match["origin"] else ""
        op = _parse_op(match["op"], match["attributes"] or "")
        self.nodes.append(Node(op, operands, results, span, origin))


def _parse_value(text: str) -> Value:
    name, _, kind = text.strip().rstrip(",").partition(": ")
    return Value(name[1:], parse_type(kind))


_TYPE = re.compile(r"(?P<dtype>\w+)\[(?P<shape>[^\]]*)\](?:\{(?P<strides>[^}]*)\})?")
_STEP = re.compile(r"-?\d+")
_DIM = re.compile(r"(?:(?P<name>\w+)=)?(?P<size>[1-9]\d*)")


def parse_type(text: str) -> TensorType:
    """`f32[B=4,T=64]` or, strided, `f32[4,64]{128,1}`."""
    match = _TYPE.fullmatch(text.strip())
    if match and match["dtype"] in DType.__members__:
        dims = [_DIM.fullmatch(d) for d in match["shape"].split(",")] if match["shape"] else []
        steps = match["strides"].split(",") if match["strides"] else None
        if all(dims) and (steps is None or (len(steps) == len(dims) and all(map(_STEP.fullmatch, steps)))):
            shape = [Dim(int(d["size"]), d["name"]) for d in dims if d]
            return TensorType.of(DType(match["dtype"]), shape, None if steps is None else map(int, steps))
    raise ValueError(f"not a type: {text.strip()!r}")


def _parse_op(name: str, text: str) -> Op:
    try:
        cls = REGISTRY[name]
    except KeyError:
        raise _Unknown(f"no op is called {name!r}", name, REGISTRY) from None
    hints = _field_types(name)
    decoder = json.JSONDecoder()
    attributes: dict[str, Any] = {}
    while text := text.lstrip(", "):
        key, _, rest = text.partition("=")
        if key not in hints:
            raise _Unknown(f"{name} has no attribute {key!r}", key, hints)
        value, end = decoder.raw_decode(rest)
        attributes[key] = _convert(key, value, hints[key])
        text = rest[end:]
    return cls(**attributes)


@cache
def _field_types(op: str) -> dict[str, Any]:
    """Attribute of an op -> its declared type."""
    hints = typing.get_type_hints(REGISTRY[op])
    return {f.name: hints[f.name] for f in fields(REGISTRY[op])}


_WORDS = {float: "a number", int: "an integer", bool: "true or false"} | dict.fromkeys((str, Body, DType, Op), "a text")


def _convert(key: str, value: Any, hint: Any) -> Any:
    """JSON value -> attribute of the declared type."""
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(key, v, typing.get_args(hint)[0]) for v in value)
    if hint is Op and isinstance(value, str):
        name, _, attributes = value.partition(" ")
        return _parse_op(name, attributes.removeprefix("{").removesuffix("}"))
    if hint in (Body, DType) and isinstance(value, str):
        return Body.parse(value) if hint is Body else DType(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{key}: expected {_WORDS.get(hint, 'a list')}, got {value!r}")
    return value


def print_graphs(graphs: Iterable[Graph]) -> str:
    """Several programs in one file."""
    return "\n".join(map(print_graph, graphs))
