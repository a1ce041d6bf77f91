"""Building graphs: `b.add(x, y)` applies an op, infers types, names the result and records where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gptc.errors import InputError, Span
from gptc.ir.graph import Graph, Node, Output, Value
from gptc.ir.op import Op, ShapeError
from gptc.ir.ops import REGISTRY
from gptc.ir.types import DType


class Builder:
    """Collects nodes.  Every op of the registry is a method: operands by position, attributes by keyword.

    `b.add(x, y)` returns a `Value`; an op with several results returns a tuple of them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.outputs: list[Output] = []
        self._taken: set[str] = set()
        self._constants: dict[tuple[float, DType], Value] = {}
        self._span: Span | None = None
        self._origin = ""

    @contextmanager
    def place(self, span: Span | None, origin: str) -> Iterator[None]:
        """Nodes built inside come from this span and place in the model."""
        before = self._span, self._origin
        self._span, self._origin = span, origin
        try:
            yield
        finally:
            self._span, self._origin = before

    def apply(self, op: Op, operands: Sequence[Value], name: str | None = None) -> tuple[Value, ...]:
        """Add a node and return its results.  Shape errors carry the current span."""
        try:
            types = op.infer(*(v.type for v in operands))
        except ShapeError as error:
            raise InputError.of(f"{op.name}: {error}", self._span) from error
        stem = name or op.name
        labels = op.results if len(op.results) >= len(types) else tuple(map(str, range(len(types))))
        first = self.fresh(stem)
        names = [first] + [self.fresh(f"{first}.{label}") for label in labels[1 : len(types)]]
        results = tuple(Value(n, t) for n, t in zip(names, types, strict=True))
        return self.add_node(Node(op, tuple(operands), results, self._span, self._origin))

    def add_node(self, node: Node) -> tuple[Value, ...]:
        """Append a finished node, keeping its names."""
        self._taken.update(v.name for v in node.results)
        self.nodes.append(node)
        return node.results

    def reserve(self, names: Iterable[str]) -> None:
        """Keep `names` for nodes that are added later."""
        self._taken.update(names)

    def fresh(self, stem: str) -> str:
        """A name that is not taken yet: the stem itself, or the stem with a number."""
        name, index = stem, 1
        while name in self._taken:
            name, index = f"{stem}_{index}", index + 1
        self._taken.add(name)
        return name

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            cls = REGISTRY[name]
        except KeyError:
            raise AttributeError(f"no op is called {name!r}") from None

        def build(*operands: Value, label: str | None = None, **attributes: Any) -> Any:
            results = self.apply(cls(**attributes), operands, label)
            return results[0] if len(results) == 1 else results

        return build

    def scalar(self, value: float, dtype: DType = DType.f32) -> Value:
        """A rank-0 constant, shared within the graph."""
        key = (float(value), dtype)
        if key not in self._constants:
            self._constants[key] = self.constant(value=float(value), dtype=dtype)
        return self._constants[key]

    def output(self, name: str, value: Value) -> None:
        """Let `value` leave the graph as `name`."""
        self.outputs.append(Output(name, value))

    def build(self, stage: str = "built") -> Graph:
        return Graph(self.name, tuple(self.nodes), tuple(self.outputs), stage)


def extend(graph: Graph) -> Builder:
    """A builder that starts with everything `graph` holds."""
    b = Builder(graph.name)
    for node in graph.nodes:
        b.add_node(node)
    b.outputs = list(graph.outputs)
    return b
