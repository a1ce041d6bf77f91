"""Running passes: their protocol, their spelling as text, remarks, timing, dumps, and what happens when one fails."""

from __future__ import annotations

import difflib
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from gptc.errors import Diagnostic, GptcError, InputError, InternalError, Span, UsageError, did_you_mean
from gptc.ir.graph import STAGES, Graph, Node, Value
from gptc.ir.text import print_graph
from gptc.ir.verify import verify
from gptc.options import Options

Kind = Literal["done", "missed", "note"]
SHOWN = 4
"""Findings of the verifier, behind the first, that the failure of a pass tells."""


class UserFault(InputError):
    """A pass found that the model itself is wrong; any other error that leaves a pass is a bug of the pass."""


@dataclass(frozen=True)
class Remark:
    """What a pass did, or what it refused to do and why.  `bytes` is the memory at stake."""

    pass_name: str
    kind: Kind
    node: str
    message: str
    bytes: int = 0
    span: Span | None = None

    @property
    def told(self) -> str:
        """All but the size."""
        return f"{self.pass_name}: {self.kind}: %{self.node}: {self.message}"

    @property
    def size(self) -> str:
        """Of the memory at stake; empty where it is not worth telling."""
        return f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 50_000 else ""

    def __str__(self) -> str:
        return f"{self.told} ({self.size})" if self.size else self.told


@dataclass(frozen=True)
class Timing:
    """One pass of one program: how long it took and what it made of how many nodes."""

    pass_name: str
    seconds: float
    before: int
    after: int


@dataclass
class Context:
    """What passes may consult and where they report: the only thing they share."""

    options: Options = field(default_factory=Options)
    remarks: list[Remark] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    node: Node | None = None
    """The node that the running pass is working on; a failure is reported there."""

    def done(self, pass_name: str, subject: Node | Value, message: str, size: int = 0) -> None:
        """Something was improved."""
        self._remark(pass_name, "done", subject, message, size)

    def missed(self, pass_name: str, subject: Node | Value, message: str, size: int = 0) -> None:
        """Something could not be improved, and why."""
        self._remark(pass_name, "missed", subject, message, size)

    def note(self, pass_name: str, subject: Node | Value, message: str, size: int = 0) -> None:
        """A fact worth knowing."""
        self._remark(pass_name, "note", subject, message, size)

    def _remark(self, pass_name: str, kind: Kind, subject: Node | Value, message: str, size: int) -> None:
        span = subject.span if isinstance(subject, Node) else None
        self.remarks.append(Remark(pass_name, kind, subject.name, message, size, span))


class Pass(Protocol):
    """A frozen dataclass whose fields are its options.  It never prints, and never changes the graph it is given."""

    name: ClassVar[str]
    stages: ClassVar[tuple[str, str]]
    """The stage that it takes (or an earlier one, as long as that is before `fused`), and the latest that it leaves."""

    def run(self, graph: Graph, context: Context) -> Graph:
        """The graph after the pass."""
        ...


Observer = Callable[[Pass, Graph, Graph], None]
"""Called after each pass with the graphs before and after it."""


def run_pipeline(
    graph: Graph,
    passes: Sequence[Pass],
    context: Context,
    *,
    observer: Observer | None = None,
    dump: Path | None = None,
    stop_after: str | None = None,
) -> Graph:
    """Run `passes` in order, verifying after each.

    `dump` is a folder for the graph after each pass and its difference to the one before.  `stop_after`
    names the last pass to run.  A pass that fails for another reason than the user's input raises
    InternalError, which names a file that reproduces the failure.
    """
    if stop_after is not None and stop_after not in (p.name for p in passes):
        hint = did_you_mean(stop_after, (p.name for p in passes))
        raise UsageError.of(f"no pass {stop_after!r} in this pipeline", hint=hint)
    if dump is not None:
        _dump(dump, 0, "input", None, graph)
    for number, pass_ in enumerate(passes, start=1):
        before, graph = graph, run_pass(graph, pass_, context)
        if dump is not None:
            _dump(dump, number, pass_.name, before, graph)
        if observer is not None:
            observer(pass_, before, graph)
        if stop_after == pass_.name and stop_after not in (p.name for p in passes[number:]):
            break
    return graph


def run_pass(graph: Graph, pass_: Pass, context: Context) -> Graph:
    """Run one pass, time it and verify what it leaves."""
    have, wanted = STAGES.index(graph.stage), STAGES.index(pass_.stages[0])
    if have > wanted or have < wanted >= STAGES.index("fused"):
        raise UsageError.of(f"pass {pass_.name} takes a graph at stage {pass_.stages[0]}, this one is {graph.stage}")
    context.node = None
    start = time.perf_counter()
    try:
        after = pass_.run(graph, context)
        seconds, context.node = time.perf_counter() - start, None
        verify(after, after.stage)
    except UserFault:
        raise
    except Exception as error:
        raise _failure(graph, pass_, context.node, error) from error
    context.timings.append(Timing(pass_.name, seconds, len(graph.nodes), len(after.nodes)))
    return after


def _failure(graph: Graph, pass_: Pass, node: Node | None, error: Exception) -> InternalError:
    """Write a reproducer and say how to use it."""
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"gptc-{pass_.name}-", suffix=".gir", delete=False, encoding="utf-8"
    ) as file:
        file.write(print_graph(graph))
    place = f" at %{node.name}" if node else ""
    found = error.diagnostics if isinstance(error, GptcError) else (Diagnostic(f"{type(error).__name__}: {error}"),)
    first, *others = [each.message for each in found]
    more = [f"and {len(others) - SHOWN} more"] if len(others) > SHOWN else []
    return InternalError.of(
        f"pass {pass_.name} failed{place} of graph {graph.name}: {first}",
        node.span if node else None,
        f"gptc opt {file.name} --passes='{spell(pass_)}'",
        *others[:SHOWN], *more, f"the graph before the pass is in {file.name}; to reproduce:",
    )  # fmt: skip


def _dump(folder: Path, number: int, name: str, before: Graph | None, after: Graph) -> None:
    """Write `NN-name.gir` and, unless it is the first, `NN-name.diff`."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, text = f"{number:02d}-{name}", print_graph(after)
    (folder / f"{stem}.gir").write_text(text, encoding="utf-8")
    if before is not None:
        lines = difflib.unified_diff(
            print_graph(before).splitlines(keepends=True), text.splitlines(keepends=True), "before", "after", n=1
        )
        (folder / f"{stem}.diff").write_text("".join(lines) or "unchanged\n", encoding="utf-8")


def spell(pass_: Pass) -> str:
    """`name`, or `name{option=value,...}` with the options that differ from their defaults; values are JSON."""
    options = [
        f"{f.name}={json.dumps(getattr(pass_, f.name))}"
        for f in fields(pass_)  # type: ignore[arg-type]
        if f.default is MISSING or getattr(pass_, f.name) != f.default
    ]
    return pass_.name + ("{" + ",".join(options) + "}" if options else "")


def parse_passes(text: str, known: Mapping[str, type[Pass]]) -> tuple[Pass, ...]:
    """Read `name,name{option=value,...},...`; the inverse of `spell`."""
    passes: list[Pass] = []
    rest = text.strip()
    while rest:
        match = re.match(r"[a-z_]+", rest)
        name = match[0] if match else rest
        if name not in known:
            hint = did_you_mean(name, known) or f"passes are {', '.join(known)}"
            raise UsageError.of(f"no pass is called {name!r}", hint=hint)
        options, rest = _parse_options(name, known[name], rest[len(name) :])
        passes.append(known[name](**options))
        if rest and not rest.startswith(","):
            raise UsageError.of(f"expected a comma before {rest!r}")
        rest = rest[1:].lstrip()
    return tuple(passes)


JSON = 'values are JSON\'s, as 12, 0.5, true, "text"'


def _parse_options(name: str, cls: type[Pass], rest: str) -> tuple[dict[str, Any], str]:
    """Read `{option=value,...}` if it is there; returns the options and the text after it."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    options: dict[str, Any] = {}
    if not rest.startswith("{"):
        return options, rest
    decoder = json.JSONDecoder()
    while not rest.startswith("}"):
        key, equals, value = rest[1:].partition("=")
        if key not in names or not equals:
            options_are = f"its options are {', '.join(names)}" if names else "it has none"
            raise UsageError.of(f"pass {name} has no option {key!r}", hint=did_you_mean(key, names) or options_are)
        try:
            options[key], end = decoder.raw_decode(value)
        except json.JSONDecodeError:
            found, _, _ = value.partition("}")
            raise UsageError.of(f"cannot read the value of {name}'s option {key!r}: {found!r}", None, JSON) from None
        rest = value[end:]
        if rest[:1] not in (",", "}"):
            raise UsageError.of(f"expected , or }} after {name}'s option {key!r}")
    return options, rest[1:]
