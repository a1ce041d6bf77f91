"""From a checked model to the forward graph: blocks unrolled, names bound, expressions turned into nodes."""

from __future__ import annotations

from itertools import islice

from gptc.errors import InputError
from gptc.ir.graph import Graph, Value, drop_unused
from gptc.ir.types import Dim, DType
from gptc.model.calls import Operand, apply_operator, call_function
from gptc.model.description import Description
from gptc.model.dims import evaluate_dims
from gptc.model.expression import Binary, Call, Expr, Name, Negate, Number
from gptc.model.functions import ModelBuilder
from gptc.model.labels import Labels, rename
from gptc.model.names import INPUTS
from gptc.model.params import MAX_ELEMENTS, unpadded
from gptc.model.scope import Scopes
from gptc.model.source import Consequence, Report, quoted
from gptc.model.statements import Block, Statement, Target

MAX_STEPS = 50_000
"""Most statements of a graph, blocks unrolled."""
OUTPUTS = ("logits", "loss")


def build_graph(model: Description, batch: int, seq: int, with_loss: bool = True) -> Graph:
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


def check(model: Description, report: Report) -> None:
    """Report what is wrong with the statements, shapes included.

    Two rounds of a repeated block show what all would: the first binds, the second carries.
    """
    seq = model.dims.get("T", 2)
    lowering = _Lowering(model, 2, seq, report, rounds=2)
    with report.collect():
        lowering.run()
    if not report:
        lowering.report_unused()


class _Lowering:
    def __init__(self, model: Description, batch: int, seq: int, report: Report, rounds: int | None = None) -> None:
        self.model = model
        self.batch = batch
        self.seq = seq
        self.report = report
        self.rounds = rounds
        self.b = ModelBuilder(model.name, unpadded(model.params))
        self.labels = Labels()
        self.scopes = Scopes(model, report)
        self.steps = 0

    def run(self) -> None:
        """Lower everything; mistakes go to the report."""
        self.bind_dims()
        self.leaves()
        self.block_body(self.model.graph)
        for name in OUTPUTS:
            self.check_output(name)

    def graph(self, output: str) -> Graph:
        """The finished graph, with the nodes that `output` needs and every parameter."""
        value = self.scopes.outputs[output].value
        assert isinstance(value, Value)
        self.b.output(output, value)
        return rename(drop_unused(self.b.build()), self.labels)

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
        self.scopes.dims = {name: Dim(size, name) for name, size in {**sizes, "B": batch, "T": seq}.items()}

    def leaves(self) -> None:
        """Inputs, positions, and one buffer for each parameter in the order of the file."""
        shape = (self.scopes.dims["B"], self.scopes.dims["T"])
        values = {name: self.b.input(key=name, dtype=DType.i32, shape=shape, label=name) for name in INPUTS[:2]}
        values["positions"] = self.b.iota(count=self.scopes.dims["T"], label="positions")
        self.scopes.inputs = values
        limits = dict.fromkeys(INPUTS, "V") | {"positions": "T"}
        self.b.below = {values[n].name: self.scopes.dims[d] for n, d in limits.items() if d in self.scopes.dims}
        for p in self.model.params:
            with self.b.place(p.span, p.name.rpartition(".")[0] or p.name):
                self.scopes.buffers[p.name] = self.b.buffer(
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
            with self.report.collect(), self.scopes.enter(block, i):
                self.block_body(block)

    def statement(self, statement: Statement) -> None:
        """Lower one statement and bind its names, to nothing when it has a mistake."""
        prefix, targets = self.scopes.prefix, statement.targets
        start = len(self.b.nodes)
        values: tuple[Operand | None, ...] = (None,) * len(targets)
        origin = prefix.rstrip(".") or targets[0].name
        with self.report.collect():
            if statement.value is None:
                raise Consequence
            for target in targets:
                self.scopes.check_target(target)
            values = self.results(statement.value, targets, origin)
            self.check_size(start)
        bound = tuple(zip(targets, values, strict=True))
        named = {v.name: prefix + t.name for t, v in bound if isinstance(v, Value)}
        self.labels.add(self.b.nodes[start:], named, prefix + targets[0].name)
        for target, value in bound:
            self.scopes.bind(target, value)

    def results(self, expr: Expr, targets: tuple[Target, ...], origin: str) -> tuple[Operand, ...]:
        """As many values as there are names on the left."""
        made = self.lower(expr, origin)
        values = made if isinstance(made, tuple) else (made,)
        if len(values) != len(targets):
            counts = [f"{n} value{'s' if n > 1 else ''}" for n in (len(values), len(targets))]
            raise InputError.of(f"this gives {counts[0]}, the left side names {len(targets)}", targets[0].span)
        return values

    def check_size(self, start: int) -> None:
        """No tensor of the nodes from `start` on is absurdly large."""
        for node in islice(self.b.nodes, start, None):
            for value in node.results:
                count = value.type.count
                if count > MAX_ELEMENTS:
                    message = f"{node.op.name}: {value.type} has {count:,} elements, the most is {MAX_ELEMENTS:,}"
                    raise InputError.of(message, node.span, "compile with a smaller batch or sequence")

    # -- expressions -------------------------------------------------------------------------------

    def lower(self, expr: Expr, origin: str) -> Operand | tuple[Value, ...]:
        match expr:
            case Number():
                return expr.value
            case Name():
                return self.scopes.lookup(expr)
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

    # -- what the whole must have ------------------------------------------------------------------

    def check_output(self, name: str) -> None:
        """`logits` are [B, T, classes], `loss` is one number."""
        binding = self.scopes.outputs.get(name)
        if binding is None:
            if not (self.report and name in self.model.declared):
                self.report.error(f"the graph never defines {name!r}", self.model.graph.span)
            return
        self.scopes.used.add(binding.span)
        if binding.value is None:
            return
        kind = binding.value.type if isinstance(binding.value, Value) else None
        want = "f32[]" if name == "loss" else "f32[B,T,classes]"
        tokens = (self.scopes.dims["B"], self.scopes.dims["T"])
        fits = kind and (kind.rank == 0 if name == "loss" else kind.rank == 3 and kind.shape[:2] == tokens)
        if not fits or (kind and kind.dtype is not DType.f32):
            self.report.error(f"{name!r} must be {want}, it is {kind or 'a number'}", binding.span)

    def report_unused(self) -> None:
        """Every parameter and every value must be read somewhere."""
        for p in self.model.params:
            if p.span not in self.scopes.used:
                self.report.error(f"the parameter {quoted(p.name)} is never used", p.span, "use it or remove it")
        for span, name in self.scopes.defined.items():
            if span not in self.scopes.used:
                self.report.error(f"{quoted(name)} is never used", span, "use it or remove it")
