"""The parameters that a description declares: repeats unrolled, sizes and inits computed, vocabulary padded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gptc.errors import InputError, Span, did_you_mean
from gptc.ir.types import Dim
from gptc.model import schema, tree
from gptc.model.dims import arithmetic, size
from gptc.model.expression import Call, Expr, Name, parse_expression
from gptc.model.names import BOUND, PROGRAMS, name_problem
from gptc.model.source import Report, quoted

MAX_REPEAT = 1024
MAX_PARAMS = 1 << 15
MAX_ELEMENTS = 1 << 40
"""Most elements of one tensor, and of all parameters together."""


@dataclass(frozen=True)
class Param:
    """One parameter of the unrolled model."""

    name: str
    """`h.3.attn.qkv.w`"""
    shape: tuple[Dim, ...]
    """As stored: padded."""
    valid: tuple[Dim, ...]
    """As declared; what lies beyond stays zero."""
    init: str
    """`normal(0.02)`, `uniform(-0.1, 0.1)`, `constant(0.5)`, `zeros` or `ones`."""
    decay: bool
    span: Span

    @property
    def count(self) -> int:
        return math.prod(int(d) for d in self.shape)


@dataclass(frozen=True)
class ParamGroup:
    """The parameters under one name; a repeated group is a tuple of these."""

    name: str
    children: Mapping[str, Param | ParamGroup | tuple[ParamGroup, ...]]

    def __iter__(self) -> Iterator[Param]:
        """All parameters, in the order of the file, which is the order in which they are initialised."""
        for child in self.children.values():
            if isinstance(child, Param):
                yield child
            else:
                for group in child if isinstance(child, tuple) else (child,):
                    yield from group


@dataclass(frozen=True)
class _Declared:
    """A parameter before its name is known: repeated groups check it once."""

    shape: tuple[Dim, ...]
    valid: tuple[Dim, ...]
    init: str
    decay: bool
    span: Span


def resolve_params(root: tree.Mapping, group: schema.Group, dims: Mapping[str, int], report: Report) -> ParamGroup:
    """Unroll `params:`.  Entries with mistakes are reported and left out."""
    resolver = _Resolver(root, dims, report)
    resolved = resolver.group(group, ("params",), "")
    total = sum(p.count for p in resolved)
    if total > MAX_ELEMENTS:
        message = f"{total:,} elements are more than the {MAX_ELEMENTS:,} that all parameters may have"
        report.error(message, root.key(("params",)).span)
    return resolved


def repeat_count(root: tree.Mapping, path: tree.Path, dims: Mapping[str, int]) -> int:
    """The value of the `repeat` in the mapping at `path`."""
    scalar = root.scalar((*path, "repeat"))
    count = size(parse_expression(scalar), dims)
    if count > MAX_REPEAT:
        raise InputError.of(f"a block repeats at most {MAX_REPEAT} times, this says {count}", scalar.span)
    return count


class _Resolver:
    def __init__(self, root: tree.Mapping, dims: Mapping[str, int], report: Report) -> None:
        self.root = root
        self.dims = dims
        self.report = report
        self.declared: dict[tree.Path, _Declared | None] = {}
        self.count = 0

    def group(self, group: schema.Group, path: tree.Path, prefix: str) -> ParamGroup:
        """The group at `path` of the file, as `prefix` of the unrolled model."""
        children: dict[str, Param | ParamGroup | tuple[ParamGroup, ...]] = {}
        for name, child in group.children.items():
            inside, full = (*path, name), f"{prefix}{name}"
            if self.exhausted(inside):
                break
            if problem := self.name_problem(name, inside, isinstance(child, schema.Group)):
                self.report.error(problem, self.root.key(inside).span)
            elif isinstance(child, schema.Param):
                if made := self.param(child, inside, full):
                    children[name] = made
            elif child.repeat is None:
                children[name] = self.group(child, inside, f"{full}.")
            else:
                children[name] = self.repeated(child, inside, full)
        return ParamGroup(prefix.rstrip("."), children)

    def repeated(self, group: schema.Group, path: tree.Path, full: str) -> tuple[ParamGroup, ...]:
        count = 1
        with self.report.collect():
            count = repeat_count(self.root, path, self.dims)
        return tuple(self.group(group, path, f"{full}.{i}.") for i in range(count))

    def name_problem(self, name: str, path: tree.Path, group: bool) -> str | None:
        if len(path) == 2 and (name in self.dims or name in BOUND):
            return f"{quoted(name)} is a dim already"
        if len(path) == 2 and name in PROGRAMS and not group:
            return f"{quoted(name)} is what programs call an input or output, and cannot be a parameter"
        return name_problem(name)

    def exhausted(self, path: tree.Path) -> bool:
        """True, once with a message, when repeats within repeats have made too much."""
        self.count += 1
        if self.count == MAX_PARAMS:
            self.report.error(f"more than {MAX_PARAMS} parameters", self.root.key(path).span)
        return self.count >= MAX_PARAMS

    def param(self, param: schema.Param, path: tree.Path, name: str) -> Param | None:
        if path not in self.declared:
            self.declared[path] = None
            with self.report.collect():
                self.declared[path] = self.declare(param, path)
        found = self.declared[path]
        if found is None:
            return None
        return Param(name, found.shape, found.valid, found.init, found.decay, found.span)

    def declare(self, param: schema.Param, path: tree.Path) -> _Declared:
        axes = [parse_expression(self.root.scalar((*path, "shape", i))) for i in range(len(param.shape))]
        valid = tuple(Dim(size(axis, self.dims), str(axis) if isinstance(axis, Name) else None) for axis in axes)
        for dim in param.pad:
            if dim not in (axis.name for axis in valid):
                known = [axis.name for axis in valid if axis.name]
                message = f"the shape has no axis {quoted(dim)} to pad"
                raise InputError.of(message, self.root.key((*path, "pad", dim)).span, did_you_mean(dim, known))
            if f"{dim}p" in self.dims:
                message = f"the padded {dim} is called {dim}p, which is a dim already"
                raise InputError.of(message, self.root.key((*path, "pad", dim)).span, "give that dim another name")
        shape = tuple(padded(axis, param.pad.get(axis.name or "")) for axis in valid)
        if math.prod(map(int, shape)) > MAX_ELEMENTS:
            message = f"{math.prod(map(int, shape)):,} elements are more than the {MAX_ELEMENTS:,} a tensor may have"
            raise InputError.of(message, self.root.find((*path, "shape"))[2].span)
        init = init_text(self.root.scalar((*path, "init")), self.dims)
        decay = len(shape) >= 2 if param.decay is None else param.decay
        return _Declared(shape, valid, init, decay, self.root.key(path).span)


def padded(axis: Dim, multiple: int | None) -> Dim:
    """The axis rounded up to a multiple; the padded `V` is called `Vp`."""
    return axis if multiple is None else Dim(-(-int(axis) // multiple) * multiple, f"{axis.name}p")


def unpadded(params: Iterable[Param]) -> dict[str, int]:
    """Name of each padded dim -> its size without the padding: `{"Vp": 50257}`."""
    axes = (pair for p in params for pair in zip(p.shape, p.valid, strict=True))
    return {str(stored.name): int(real) for stored, real in axes if stored.name != real.name}


_INITS = {"zeros": 0, "ones": 0, "normal": 1, "uniform": 2, "constant": 1}


def init_text(scalar: tree.Scalar, dims: Mapping[str, int]) -> str:
    """An init spec with its numbers computed: `normal(0.02 / sqrt(2*L))` -> `normal(0.004082482904638631)`."""
    expr = parse_expression(scalar)
    kind, args = _init_parts(expr)
    usual = "inits are normal(std), uniform(low, high), constant(value), zeros and ones"
    if kind not in _INITS:
        raise InputError.of(f"unknown init {quoted(scalar.text)}", expr.span, did_you_mean(kind, _INITS) or usual)
    if len(args) != _INITS[kind]:
        numbers = "1 number" if _INITS[kind] == 1 else f"{_INITS[kind]} numbers"
        raise InputError.of(f"{kind} takes {numbers}, got {len(args)}", expr.span, usual)
    values = [float(arithmetic(arg, dims)) for arg in args]
    if kind == "normal" and values[0] <= 0:
        raise InputError.of(f"a standard deviation is positive, this is {values[0]!r}", args[0].span)
    if kind == "uniform" and values[0] >= values[1]:
        raise InputError.of(f"uniform(low, high) needs low < high, got {values[0]!r} and {values[1]!r}", expr.span)
    return f"{kind}({', '.join(map(repr, values))})" if values else kind


def _init_parts(expr: Expr) -> tuple[str, tuple[Expr, ...]]:
    if isinstance(expr, Name):
        return str(expr), ()
    if isinstance(expr, Call) and not expr.keywords:
        return expr.function, expr.args
    return "", ()
