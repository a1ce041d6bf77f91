"""What an op is, and the registry of all of them.

To add an op: write one class in `gptc/ir/ops/`, decorate it with `@register`, give it a docstring with
its mathematics and source, attributes as typed fields, `infer`, `eval` (or a `body`), `vjp`, `flops` and
`samples`.  The registry tests then check its shapes, its gradient and its kernels without further code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from gptc.ir.types import Array, Shape, TensorType, broadcast

if TYPE_CHECKING:
    from gptc.ir.build import Builder
    from gptc.ir.graph import Value

Types = tuple[TensorType, ...]
Values = Sequence["Value"]
Grads = Sequence["Value | None"]
Pairs = tuple[tuple[int, int], ...]
Ranks = Sequence[tuple[Array, ...]]
"""The operands of one op on every rank of a job."""
Samples = tuple[tuple[dict[str, Any], tuple[str, ...]], ...]


class ShapeError(ValueError):
    """Operands do not fit an op.  The message names both sides; whoever knows the span adds it."""


def need(condition: bool, message: str) -> None:
    """Raise `ShapeError(message)` unless `condition` holds."""
    if not condition:
        raise ShapeError(message)


def need_count(operands: Sequence[object], count: int) -> None:
    """An op with another number of operands is a mistake of the model, as a wrong shape is."""
    need(len(operands) == count, f"takes {count} operand{'s' * (count != 1)}, got {len(operands)}")


def iteration_space(operands: Sequence[TensorType], count: int, shape: Shape = ()) -> Shape:
    """What `count` operands and `shape` broadcast to."""
    need_count(operands, count)
    space = broadcast(*(t.shape for t in operands), shape)
    if space is None:
        raise ShapeError(f"shapes do not broadcast: {' and '.join(map(str, operands))}")
    return space


@dataclass(frozen=True)
class Op:
    """Base of all ops.  Fields of subclasses are the op's attributes: printed, parsed, hashed."""

    name: ClassVar[str]
    """The word used in YAML, `.gir`, kernel names and messages."""
    results: ClassVar[tuple[str, ...]] = ("y",)
    """Names of the results; where `infer` returns more than these, the results are numbered."""
    saved: ClassVar[tuple[str, ...]] = ()
    """Results that only the gradient reads (statistics); no gradient flows into them."""
    in_place: ClassVar[Pairs] = ()
    """(result, operand) pairs that may share memory when the operand dies here and has the result's type."""
    kernel: ClassVar[str | None] = None
    """Base name of the template that computes it; None: gone before code generation."""
    lazy: ClassVar[bool] = False
    """True: it waits for something, and runs no earlier than the given order says."""
    differentiable: ClassVar[bool] = True
    """False: gradients stop here."""
    samples: ClassVar[Samples] = ()
    """(attributes, operand types as text) pairs that every test of the registry runs over."""

    def infer(self, *operands: TensorType) -> Types:
        """Types of the results; raises `ShapeError` when the operands do not fit."""
        raise NotImplementedError

    def eval(self, *operands: Array) -> tuple[Array, ...]:
        """NumPy semantics: the definition.  Must work in float32 and in float64."""
        raise NotImplementedError

    def together(self, ranks: Ranks) -> list[tuple[Array, ...]]:
        """What each rank of a job gets; collectives alone look at more than one."""
        return [self.eval(*operands) for operands in ranks]

    def vjp(self, b: Builder, operands: Values, results: Values, grads: Grads) -> Grads:
        """Build the gradient of each operand from the gradients of the results (None: zero)."""
        raise NotImplementedError(f"{self.name} has no gradient")

    def flops(self, *operands: TensorType) -> int:
        """Floating-point operations of one evaluation."""
        return sum(t.count for t in self.infer(*operands))

    def moved(self, *operands: TensorType) -> int | None:
        """Bytes between memory and processor, where they are not every operand and result once."""
        return None

    def attributes(self) -> dict[str, Any]:
        """Field name -> value, in declaration order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


REGISTRY: dict[str, type[Op]] = {}


OpClass = TypeVar("OpClass", bound=type[Op])


@dataclass_transform(frozen_default=True)
def register(cls: OpClass) -> OpClass:
    """Class decorator: make it a frozen dataclass and enter it under its `name`."""
    made: OpClass = dataclass(frozen=True)(cls)  # type: ignore[assignment]
    if made.name in REGISTRY:
        raise ValueError(f"two ops are named {made.name!r}")
    REGISTRY[made.name] = made
    return made
