"""What names mean while a graph is being lowered: values, parameters and dims, block within block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from gptc.errors import InputError, Span, did_you_mean
from gptc.ir.graph import Value
from gptc.ir.types import Dim
from gptc.model.calls import Operand
from gptc.model.description import Description
from gptc.model.expression import Name
from gptc.model.params import Param, ParamGroup
from gptc.model.source import Consequence, Report, quoted
from gptc.model.statements import Block, Statement, Target


@dataclass
class Binding:
    """What a name stands for; None: its definition has a mistake that is reported already."""

    value: Operand | None
    span: Span


@dataclass
class Scope:
    """A block being lowered."""

    prefix: str
    """Put before the names of its values: `h.3.`"""
    params: ParamGroup | None
    values: dict[str, Binding] = field(default_factory=dict)


class Scopes:
    """The stack of blocks that are open, the outermost first."""

    def __init__(self, model: Description, report: Report) -> None:
        self.model = model
        self.report = report
        self.stack = [Scope("", model.param_tree)]
        self.dims: dict[str, Dim] = {}
        self.inputs: dict[str, Value] = {}
        self.buffers: dict[str, Value] = {}
        """The value of each parameter, by its full name."""
        self.used: set[Span] = set()
        """Where the names that were read are defined."""
        self.defined: dict[Span, str] = {}
        """Where statements define which names."""

    @property
    def prefix(self) -> str:
        """Put before the names of values: `h.3.`"""
        return self.stack[-1].prefix

    @property
    def outputs(self) -> dict[str, Binding]:
        """What the outermost statements define."""
        return self.stack[0].values

    @contextmanager
    def enter(self, block: Block, index: int) -> Iterator[None]:
        """Round `index` of a block: its parameters come first, its values end with it."""
        outer = self.stack[-1]
        found = outer.params.children.get(block.name) if outer.params else None
        if isinstance(found, Param):
            raise InputError.of(f"{quoted(block.name)} is a parameter and cannot be a block", block.span)
        count = len(found) if isinstance(found, tuple) else None
        if found is not None and count != block.repeat:
            times = ["once" if n is None else f"{n} times" for n in (block.repeat, count)]
            raise InputError.of(
                f"the block {block.name!r} runs {times[0]}, its parameters are declared {times[1]}",
                block.span,
                "give both the same `repeat`",
            )
        label = block.name if block.repeat is None else f"{block.name}.{index}"
        self.stack.append(Scope(f"{outer.prefix}{label}.", found[index] if isinstance(found, tuple) else found))
        try:
            yield
        finally:
            self.stack.pop()

    def bind(self, target: Target, value: Operand | None) -> None:
        """Give a name its value: where the name is known already, which carries it out of a block, or here."""
        self.defined[target.span] = target.name
        owner = next((s for s in self.stack if target.name in s.values), self.stack[-1])
        owner.values[target.name] = Binding(value, target.span)

    def check_target(self, target: Target) -> None:
        """A statement cannot replace a parameter."""
        for scope in self.stack:
            if scope.params and target.name in scope.params.children:
                raise InputError.of(f"{quoted(target.name)} is a parameter and cannot be assigned", target.span)

    def lookup(self, name: Name) -> Operand:
        """What a name means here: a value, then a parameter, of this block or one around it; then a dim."""
        head = name.parts[0]
        for scope in reversed(self.stack):
            if head in scope.values:
                binding = scope.values[head]
                if len(name.parts) > 1:
                    raise InputError.of(f"{quoted(head)} is a value and has no parts", name.span)
                self.used.add(binding.span)
                if binding.value is None:
                    raise Consequence
                return binding.value
            if scope.params and head in scope.params.children:
                return self.param(name, scope.params)
        if len(name.parts) == 1 and head in self.dims:
            return self.dims[head]
        if len(name.parts) == 1 and head in self.inputs:
            return self.inputs[head]
        raise self.unknown(name)

    def param(self, name: Name, group: ParamGroup) -> Value:
        """The parameter that a dotted name picks."""
        for depth, part in enumerate(name.parts):
            found = group.children.get(part)
            if isinstance(found, Param):
                if depth + 1 < len(name.parts):
                    raise InputError.of(f"{quoted(found.name)} is a parameter and has no parts", name.span)
                self.used.add(found.span)
                return self.buffers[found.name]
            if isinstance(found, tuple):
                message = f"{quoted(part)} is repeated: its parameters have names only inside the block {quoted(part)}"
                raise InputError.of(message, name.span)
            if found is None:
                raise self.unknown(name)
            group = found
        choices = ", ".join(f"{name}.{child}" for child in islice(group.children, 8))
        raise InputError.of(f"{quoted(str(name))} is a group of parameters", name.span, f"pick one: {choices}")

    def unknown(self, name: Name) -> Exception:
        """The error for a name that means nothing; a consequence only if its definition is what is wrong."""
        if self.report and set(name.parts) <= self.model.declared:
            return Consequence()
        if defined := self.definition(name.parts[0]):
            message, hint = _out_of_order(name, defined)
            return InputError.of(message, name.span, hint)
        close = did_you_mean(str(name)[:130], islice(self.visible(), 2000))
        return InputError.of(f"unknown name {quoted(str(name))}", name.span, self.elsewhere(name) or close)

    def elsewhere(self, name: Name) -> str | None:
        """The block that a name needs, where it is a parameter of one that is not open."""
        for owner, child in self.stack[0].params.children.items() if self.stack[0].params else ():
            group = child[0] if isinstance(child, tuple) else child
            if isinstance(group, ParamGroup) and name.parts[0] in group.children:
                return f"it is a parameter of {quoted(owner)}: only a block of that name finds it"
        return None

    def definition(self, name: str) -> Span | None:
        """Where some statement, wherever it stands, defines a name."""
        todo: list[Block | Statement] = [self.model.graph]
        while todo:
            item = todo.pop()
            if isinstance(item, Block):
                todo += item.body
            elif found := [t.span for t in item.targets if t.name == name]:
                return found[0]
        return None

    def visible(self) -> Iterator[str]:
        """Names that would mean something here."""
        yield from self.dims
        yield from self.inputs
        for scope in self.stack:
            yield from scope.values
            if scope.params:
                prefix = len(scope.params.name) + 1 if scope.params.name else 0
                yield from (p.name[prefix:] for p in scope.params)


def _out_of_order(name: Name, defined: Span) -> tuple[str, str]:
    """Why a name that is defined somewhere has no meaning where it is used, and what to do."""
    used = quoted(str(name))
    if defined.line < name.span.line:
        message = f"{used} is local to the block that defines it, on line {defined.line}"
        return message, "define it before the block to carry it through and out"
    if defined.line == name.span.line:
        return f"{used} is used in its own definition", "statements run in order"
    return f"{used} is used before it is defined, on line {defined.line}", "statements run in order"
