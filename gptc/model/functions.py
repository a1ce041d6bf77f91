"""What expressions can call: each function is a few lines over the builder.

Tensors come by position, sizes and attributes as their annotations say, and what follows `*` by keyword.
To add a function, write it here and decorate it with `@function`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from gptc.ir.build import Builder
from gptc.ir.graph import Node, Value
from gptc.ir.op import need
from gptc.ir.ops import REGISTRY
from gptc.ir.ops.elementwise import Elementwise
from gptc.ir.types import Dim, DType

Tensors = Value | tuple[Value, ...]
MAX_PARTS = 1024
"""Most pieces that one call makes."""


class ModelBuilder(Builder):
    """A builder that knows how much of a padded dim is real, `{"Vp": 50257}`, and how large ids can be."""

    def __init__(self, name: str, unpadded: Mapping[str, int]) -> None:
        super().__init__(name)
        self.unpadded = unpadded
        self.below: dict[str, Dim] = {}
        """What all ids in an input are below: `{"tokens": V=50257}`."""
        self._ids: dict[str, frozenset[str]] = {}
        """Value -> the values of whole numbers that it begins with."""

    def add_node(self, node: Node) -> tuple[Value, ...]:
        own = (value.name for value in node.results if not node.operands and value.type.dtype is DType.i32)
        begins = frozenset(own).union(*(self._ids[value.name] for value in node.operands))
        self._ids |= dict.fromkeys((value.name for value in node.results), begins)
        return super().add_node(node)

    def need_ids(self, ids: Value, table: Value, axis: int, what: str) -> None:
        """`table` has `what` along `axis` for all of `ids`, however they were arranged: kernels do not look."""
        count = int(table.type.shape[axis])
        for name in sorted(self._ids[ids.name] & self.below.keys()):
            last = int(self.below[name]) - 1
            need(last < count, f"{name} go up to {last}, {table.type} has {count} {what}")


@dataclass(frozen=True)
class Function:
    """A function of the model language; `build(b, *args)` adds its nodes to a builder."""

    name: str
    build: Callable[..., Tensors]

    @cached_property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """Everything after the builder; annotations are `Value`, `int`, `float` or `bool`, as text."""
        return tuple(inspect.signature(self.build).parameters.values())[1:]

    @property
    def positional(self) -> tuple[inspect.Parameter, ...]:
        return tuple(p for p in self.parameters if p.kind is not p.KEYWORD_ONLY)

    @property
    def keywords(self) -> dict[str, inspect.Parameter]:
        return {p.name: p for p in self.parameters if p.kind is p.KEYWORD_ONLY}

    @property
    def usage(self) -> str:
        """`layer_norm(x, w, b, eps=1e-05)`"""
        words = []
        for p in self.parameters:
            default = "" if p.default is p.empty else f"={p.default}"
            words.append(f"{p.name}..." if p.kind is p.VAR_POSITIONAL else p.name + default)
        return f"{self.name}({', '.join(words)})"


FUNCTIONS: dict[str, Function] = {}


def function(build: Callable[..., Tensors]) -> Callable[..., Tensors]:
    """Enter a function under its own name."""
    FUNCTIONS[build.__name__] = Function(build.__name__, build)
    return build


def _activation(op: type[Elementwise]) -> None:
    """An elementwise op of one tensor that is nothing but its body is a function as it stands."""

    def build(b: ModelBuilder, x: Value) -> Tensors:
        return _first(b.apply(op(), (x,)))

    build.__doc__ = op.__doc__
    FUNCTIONS[op.name] = Function(op.name, build)


for _op in [op for op in REGISTRY.values() if issubclass(op, Elementwise) and op.differentiable and not fields(op)]:
    if len(_op.code.inputs) == 1 and _op.code.stmts:
        _activation(_op)


@function
def embedding(b: ModelBuilder, w: Value, ids: Value) -> Tensors:
    """Rows of w [V, C] picked by ids."""
    need(w.type.rank == 2, f"w must be [V, C], got {w.type}")
    b.need_ids(ids, w, 0, "rows")
    return _first(b.embedding(w, ids))


@function
def matmul(b: ModelBuilder, x: Value, y: Value) -> Tensors:
    """x y over the last two axes."""
    return _first(b.matmul(x, y))


@function
def matmul_nt(b: ModelBuilder, x: Value, y: Value) -> Tensors:
    """x y^T over the last two axes."""
    return _first(b.matmul(x, y, trans_b=True))


@function
def linear(b: ModelBuilder, x: Value, w: Value, bias: Value | None = None) -> Tensors:
    """x w^T + bias, with w [out, in]."""
    y = b.matmul(x, w, trans_b=True)
    return _first(y if bias is None else b.add(y, bias))


@function
def layer_norm(b: ModelBuilder, x: Value, w: Value, bias: Value, *, eps: float = 1e-5) -> Tensors:
    """(x - mean) / sqrt(variance + eps) * w + bias over the last axis."""
    _need_row(x, eps)
    return _first(b.layer_norm(x, w, bias, eps=eps))


@function
def rms_norm(b: ModelBuilder, x: Value, w: Value, *, eps: float = 1e-5) -> Tensors:
    """x / sqrt(mean of squares + eps) * w over the last axis."""
    _need_row(x, eps)
    return _first(b.rms_norm(x, w, eps=eps))


@function
def causal_mask(b: ModelBuilder, scores: Value) -> Tensors:
    """Scores [.., T, T] with -inf above the diagonal."""
    return _first(b.causal_mask(scores))


@function
def softmax(b: ModelBuilder, x: Value) -> Tensors:
    """Over the last axis."""
    need(x.type.rank > 0, f"needs at least one axis, got {x.type}")
    return _first(b.softmax(x))


@function
def attention(b: ModelBuilder, q: Value, k: Value, v: Value) -> Tensors:
    """Causal softmax(q k^T / sqrt(D)) v over heads [B, H, T, D]; k and v may have fewer heads."""
    need(q.type.rank == 4, f"q must be [B, H, T, D], got {q.type}")
    return _first(b.attention(q, k, v, scale=float(q.type.shape[-1]) ** -0.5, causal=True))


@function
def heads(b: ModelBuilder, x: Value, parts: int, H: int) -> Tensors:
    """[B, T, parts * H * D] as `parts` tensors [B, H, T, D]."""
    need(x.type.rank == 3, f"needs [B, T, C], got {x.type}")
    _need_parts(parts)
    need(H >= 1, f"needs at least one head, got {H}")
    batch, seq, width = x.type.shape
    need(width % (parts * H) == 0, f"the last axis of {x.type} does not divide into {parts} x {H} heads")
    pieces = b.split(x, parts=parts) if parts > 1 else x
    views = [
        b.reshape(piece, shape=(batch, seq, H, width // (parts * H)))
        for piece in (pieces if isinstance(pieces, tuple) else (pieces,))
    ]
    made = tuple(b.transpose(view, perm=(0, 2, 1, 3)) for view in views)
    return made if parts > 1 else made[0]


@function
def merge_heads(b: ModelBuilder, x: Value) -> Tensors:
    """[B, H, T, D] as [B, T, H * D]."""
    need(x.type.rank == 4, f"needs [B, H, T, D], got {x.type}")
    batch, H, seq, width = x.type.shape
    return _first(b.reshape(b.transpose(x, perm=(0, 2, 1, 3)), shape=(batch, seq, H * width)))


@function
def rope(b: ModelBuilder, x: Value, positions: Value, *, theta: float = 10000.0) -> Tensors:
    """Heads [B, H, T, D] turned by their positions t: (x[i], x[i + D/2]) by t theta^(-2 i / D) (Su et al. 2021)."""
    need(x.type.rank == 4, f"needs heads [B, H, T, D], got {x.type}")
    batch, H, seq, width = x.type.shape
    fits = positions.type.shape == (seq,) and not positions.type.dtype.is_float
    need(fits, f"takes one whole number for each position of {x.type}, got {positions.type}")
    need(width % 2 == 0, f"turns pairs of numbers, and {x.type} has {int(width)} in a head")
    need(theta > 0, f"theta must be positive, got {theta:g}")
    angles = b.angles(b.reshape(positions, shape=(seq, 1, 1)), size=int(width), theta=theta)
    cos, sin = (b.reshape(table, shape=(seq, 1, 2, width // 2)) for table in (b.cos(angles), b.sin(angles)))
    halves = b.reshape(b.transpose(x, perm=(0, 2, 1, 3)), shape=(batch, seq, H, 2, width // 2))
    turned = b.add(b.mul(halves, cos), b.mul(b.flip(halves, axis=3), sin))  # -sin for the first half, sin for the other
    return _first(b.transpose(b.reshape(turned, shape=(batch, seq, H, width)), perm=(0, 2, 1, 3)))


@function
def split(b: ModelBuilder, x: Value, parts: int, *, axis: int = -1) -> Tensors:
    """Equal pieces along an axis."""
    _need_axis(x, axis)
    _need_parts(parts)
    made: Tensors = b.split(x, axis=axis, parts=parts)
    return made


@function
def concat(b: ModelBuilder, *x: Value, axis: int = -1) -> Tensors:
    """Tensors joined along an axis."""
    for each in x:
        _need_axis(each, axis)
    return _first(b.concat(*x, axis=axis))


@function
def reshape(b: ModelBuilder, x: Value, *sizes: int) -> Tensors:
    """The same elements in row-major order under other sizes."""
    need(all(s >= 1 for s in sizes), f"sizes are positive, got {list(sizes)}")
    return _first(b.reshape(x, shape=sizes))


@function
def transpose(b: ModelBuilder, x: Value, *axes: int) -> Tensors:
    """Axis i of the result is axis axes[i] of x."""
    return _first(b.transpose(x, perm=tuple(map(int, axes))))


@function
def cross_entropy(b: ModelBuilder, logits: Value, targets: Value, *, classes: int | None = None) -> Tensors:
    """Mean of -log softmax(logits)[target] over the first `classes` columns; by default all but the padding."""
    need(logits.type.rank > 0, f"needs at least one axis, got {logits.type}")
    columns = logits.type.shape[-1]
    count = b.unpadded.get(columns.name or "", int(columns)) if classes is None else classes
    need(1 <= count <= columns, f"classes must be between 1 and {int(columns)}, got {count}")
    b.need_ids(targets, logits, -1, "classes")
    column = b.reshape(targets, shape=(*targets.type.shape, 1))
    return _first(b.reduce_mean(_first(b.cross_entropy(logits, column, classes=count))))


def _first(result: Tensors) -> Value:
    """The result a reader means: statistics that an op also returns stay inside the graph."""
    return result[0] if isinstance(result, tuple) else result


def _need_row(x: Value, eps: float) -> None:
    need(x.type.rank > 0, f"needs at least one axis, got {x.type}")
    need(eps > 0, f"eps must be positive, got {eps}")


def _need_parts(parts: int) -> None:
    need(1 <= parts <= MAX_PARTS, f"makes 1 to {MAX_PARTS} parts, not {parts}")


def _need_axis(x: Value, axis: int) -> None:
    need(-x.type.rank <= axis < x.type.rank, f"{x.type} has no axis {axis}")
