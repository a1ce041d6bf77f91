"""From a checked model to the forward graph: blocks unrolled, names bound, expressions turned into nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from gptc.errors import InputError, Span, did_you_mean
from gptc.ir.graph import Graph, Value
from gptc.ir.types import Dim, DType
from gptc.model.calls import Operand, apply_operator, call_function
from gptc.model.dims import evaluate_dims
from gptc.model.expression import Binary, Call, Expr, Name, Negate, Number
from gptc.model.functions import ModelBuilder
from gptc.model.labels import Labels, live, rename
from gptc.model.names import INPUTS
from gptc.model.params import MAX_ELEMENTS, Param, ParamGroup, unpadded
from gptc.model.source import Consequence, Report, quoted
from gptc.model.statements import Block, Statement, Target

if TYPE_CHECKING:
    from gptc.model.description import Model

MAX_STEPS = 50_000
"""Most statements of a graph, blocks unrolled."""
OUTPUTS = ("logits", "loss")


def build_graph(model: Model, batch: int, seq: int, with_loss: bool = True) -> Graph:
    """The forward graph for `batch` sequences of `seq` tokens.

    Inputs `tokens` and, with a loss, `targets` (both i32[B,T]); every parameter is a `buffer`; the output is
    `loss` (f32[], mean over B*T) or `logits` (f32[B,T,Vp]).
    """
    report = Report(*model.sources)
    lowering = _Lowering(model, batch, seq, report)
    with report.collect():
        lowering.run()
    report.check()
    return lowering.graph("loss" if with_loss else "logits")


def check(model: Model, report: Report) -> None:
    """Report what is wrong with the statements, shapes included.

    Two rounds of a repeated block show what all would: the first binds, the second carries.
    """
    seq = model.dims.get("T", 2)
    lowering = _Lowering(model, 2, seq, report, rounds=2)
    with report.collect():
        lowering.run()
    if not report:
        lowering.report_unused()


@dataclass
class _Binding:
    """What a name stands for; None: its definition has a mistake that is reported already."""

    value: Operand | None
    span: Span


@dataclass
class _Scope:
    """A block being lowered."""

    prefix: str
    """Put before the names of its values: `h.3.`"""
    params: ParamGroup | None
    values: dict[str, _Binding] = field(default_factory=dict)


class _Lowering:
    def __init__(self, model: Model, batch: int, seq: int, report: Report, rounds: int | None = None) -> None:
        self.model = model
        self.batch = batch
        self.seq = seq
        self.report = report
        self.rounds = rounds
        self.b = ModelBuilder(model.name, unpadded(model.params))
        self.labels = Labels()
        self.dims: dict[str, Dim] = {}
        self.buffers: dict[str, Value] = {}
        self.scopes = [_Scope("", model.param_tree)]
        self.steps = 0
        self.used: set[Span] = set()
        self.defined: dict[Span, str] = {}

    def run(self) -> None:
        """Lower everything; mistakes go to the report."""
        self.bind_dims()
        self.leaves()
        self.block_body(self.model.graph)
        for name in OUTPUTS:
            self.check_output(name)

    def graph(self, output: str) -> Graph:
        """The finished graph, with the nodes that `output` needs and every parameter."""
        value = self.scopes[0].values[output].value
        assert isinstance(value, Value)
        self.b.output(output, value)
        return rename(live(self.b.build()), self.labels)

    # -- leaves ------------------------------------------------------------------------------------

    def bind_dims(self) -> None:
        """Dims of the graph: those of the file with this batch and this sequence length."""
        model, batch, seq = self.model, self.batch, self.seq
        for name, value in (("batch", batch), ("sequence length", seq)):
            if value < 1:
                raise InputError.of(f"the {name} must be at least 1, got {value}")
        longest = model.dims.get("T")
        if longest is not None and seq > longest:
            span = model.dim_entries["T"].span
            raise InputError.of(f"the sequence length {seq} is longer than the model's T = {longest}", span)
        if batch * seq >= 2**31:
            raise InputError.of(f"batch {batch} x sequence length {seq} is more than 2^31 - 1 tokens")
        sizes = model.dims
        if longest is not None and seq != longest:
            sizes = evaluate_dims(model.dim_entries, self.report, {"T": seq})
        self.dims = {name: Dim(size, name) for name, size in {**sizes, "B": batch, "T": seq}.items()}

    def leaves(self) -> None:
        """Inputs, positions, and one buffer for each parameter in the order of the file."""
        shape = (self.dims["B"], self.dims["T"])
        values = {name: self.b.input(key=name, dtype=DType.i32, shape=shape, label=name) for name in INPUTS[:2]}
        values["positions"] = self.b.iota(count=self.dims["T"], label="positions")
        here = Span(self.model.sources[0].file, 1)
        self.scopes[0].values = {name: _Binding(value, here) for name, value in values.items()}
        for p in self.model.params:
            with self.b.place(p.span, p.name.rpartition(".")[0] or p.name):
                self.buffers[p.name] = self.b.buffer(
                    key=p.name, shape=p.shape, init=p.init, valid=tuple(map(int, p.valid)), decay=p.decay, label=p.name
                )
        self.labels.keep(self.b.nodes)

    # -- statements --------------------------------------------------------------------------------

    def block_body(self, block: Block) -> None:
        for item in block.body:
            if self.exhausted(block):
                return
            if isinstance(item, Block):
                self.block(item)
            else:
                self.statement(item)

    def exhausted(self, block: Block) -> bool:
        """True, once with a message, when blocks within blocks have made too much."""
        self.steps += 1
        if self.steps == MAX_STEPS:
            self.report.error(f"the graph runs more than {MAX_STEPS} statements", block.span)
        return self.report.full or self.steps >= MAX_STEPS

    def block(self, block: Block) -> None:
        rounds = range(block.repeat or 1)
        for i in rounds if self.rounds is None else rounds[: self.rounds]:
            with self.report.collect(), self.scope(block, i):
                self.block_body(block)

    @contextmanager
    def scope(self, block: Block, index: int) -> Iterator[None]:
        """Round `index` of a block: its parameters come first, its values end with it."""
        outer = self.scopes[-1]
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
        self.scopes.append(_Scope(f"{outer.prefix}{label}.", found[index] if isinstance(found, tuple) else found))
        try:
            yield
        finally:
            self.scopes.pop()

    def statement(self, statement: Statement) -> None:
        """Lower one statement and bind its names, to nothing when it has a mistake."""
        scope, targets = self.scopes[-1], statement.targets
        start = len(self.b.nodes)
        values: tuple[Operand | None, ...] = (None,) * len(targets)
        origin = scope.prefix.rstrip(".") or targets[0].name
        with self.report.collect():
            if statement.value is None:
                raise Consequence
            for target in targets:
                self.check_target(target)
            values = self.results(statement.value, targets, origin)
            self.check_size(start)
        bound = tuple(zip(targets, values, strict=True))
        named = {v.name: scope.prefix + t.name for t, v in bound if isinstance(v, Value)}
        self.labels.add(self.b.nodes[start:], named, scope.prefix + targets[0].name)
        for target, value in bound:
            self.defined[target.span] = target.name
            owner = next((s for s in self.scopes if target.name in s.values), scope)
            owner.values[target.name] = _Binding(value, target.span)

    def results(self, expr: Expr, targets: tuple[Target, ...], origin: str) -> tuple[Operand, ...]:
        """As many values as there are names on the left."""
        made = self.lower(expr, origin)
        values = made if isinstance(made, tuple) else (made,)
        if len(values) != len(targets):
            counts = [f"{n} value{'s' if n > 1 else ''}" for n in (len(values), len(targets))]
            raise InputError.of(f"this gives {counts[0]}, the left side names {len(targets)}", targets[0].span)
        return values

    def check_target(self, target: Target) -> None:
        for scope in self.scopes:
            if scope.params and target.name in scope.params.children:
                raise InputError.of(f"{quoted(target.name)} is a parameter and cannot be assigned", target.span)

    def check_size(self, start: int) -> None:
        """No tensor of the nodes from `start` on is absurdly large."""
        for node in islice(self.b.nodes, start, None):
            for value in node.results:
                count = value.type.count
                if count > MAX_ELEMENTS:
                    message = f"{node.op.name}: {value.type} has {count} elements, the most is {MAX_ELEMENTS}"
                    raise InputError.of(message, node.span, "compile with a smaller batch or sequence")

    # -- expressions -------------------------------------------------------------------------------

    def lower(self, expr: Expr, origin: str) -> Operand | tuple[Value, ...]:
        match expr:
            case Number():
                return expr.value
            case Name():
                return self.lookup(expr)
            case Negate():
                operand = self.operand(expr.operand, origin)
                with self.b.place(expr.span, origin):
                    return apply_operator(self.b, "neg", (operand,), expr)
            case Binary():
                sides = self.operand(expr.left, origin), self.operand(expr.right, origin)
                with self.b.place(expr.span, origin):
                    return apply_operator(self.b, expr.op, sides, expr)
            case Call():
                args = tuple(self.operand(arg, origin) for arg in expr.args)
                keywords = {key: self.operand(value, origin) for key, value in expr.keywords}
                with self.b.place(expr.span, origin):
                    return call_function(self.b, expr, args, keywords)

    def operand(self, expr: Expr, origin: str) -> Operand:
        """An expression with one value."""
        value = self.lower(expr, origin)
        if isinstance(value, tuple):
            message = f"this gives {len(value)} tensors and cannot be part of an expression"
            raise InputError.of(message, expr.span, "name each of them in a statement of its own")
        return value

    def lookup(self, name: Name) -> Operand:
        """What a name means here: a value, then a parameter, of this block or one around it; then a dim."""
        head = name.parts[0]
        for scope in reversed(self.scopes):
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
        if head in self.dims and len(name.parts) == 1:
            return self.dims[head]
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
        return InputError.of(f"unknown name {quoted(str(name))}", name.span, close)

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
        for scope in self.scopes:
            yield from scope.values
            if scope.params:
                prefix = len(scope.params.name) + 1 if scope.params.name else 0
                yield from (p.name[prefix:] for p in scope.params)

    # -- what the whole must have ------------------------------------------------------------------

    def check_output(self, name: str) -> None:
        """`logits` are [B, T, classes], `loss` is one number."""
        binding = self.scopes[0].values.get(name)
        if binding is None:
            if not (self.report and name in self.model.declared):
                self.report.error(f"the graph never defines {name!r}", self.model.graph.span)
            return
        self.used.add(binding.span)
        if binding.value is None:
            return
        kind = binding.value.type if isinstance(binding.value, Value) else None
        want = "f32[]" if name == "loss" else "f32[B,T,classes]"
        tokens = (self.dims["B"], self.dims["T"])
        fits = kind and (kind.rank == 0 if name == "loss" else kind.rank == 3 and kind.shape[:2] == tokens)
        if not fits or (kind and kind.dtype is not DType.f32):
            self.report.error(f"{name!r} must be {want}, it is {kind or 'a number'}", binding.span)

    def report_unused(self) -> None:
        """Every parameter and every value must be read somewhere."""
        for p in self.model.params:
            if p.span not in self.used:
                self.report.error(f"the parameter {quoted(p.name)} is never used", p.span, "use it or remove it")
        for span, name in self.defined.items():
            if span not in self.used:
                self.report.error(f"{quoted(name)} is never used", span, "use it or remove it")


def _out_of_order(name: Name, defined: Span) -> tuple[str, str]:
    """Why a name that is defined somewhere has no meaning where it is used, and what to do."""
    used = quoted(str(name))
    if defined.line < name.span.line:
        message = f"{used} is local to the block that defines it, on line {defined.line}"
        return message, "define it before the block to carry it through and out"
    if defined.line == name.span.line:
        return f"{used} is used in its own definition", "statements run in order"
    return f"{used} is used before it is defined, on line {defined.line}", "statements run in order"
