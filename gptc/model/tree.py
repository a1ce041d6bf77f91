"""YAML 1.2 as a tree that remembers positions.

Built from ruamel.yaml's parse events, never from constructed objects: a tag cannot run anything (tags are
refused), and no file, however nested or aliased, costs more than its caps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    ScalarEvent,
)

from gptc.errors import GptcError, InputError, Span
from gptc.model.source import Report, Source, quoted

MAX_DEPTH = 64
MAX_NODES = 20_000
"""Most nodes of a file, counted after every alias is replaced by what it stands for."""

Path = tuple[str | int, ...]
Plain = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Scalar:
    """A value without parts.  `text` is what the file says, `value` what YAML 1.2 makes of it."""

    source: Source
    start: int
    end: int
    text: str
    value: Plain
    size: int = 1

    @property
    def span(self) -> Span:
        return self.source.span(self.start, self.end)

    def at(self, offset: int, width: int) -> Span:
        """The place of `text[offset:offset + width]` in the file.

        Folding and quoting only add or drop spaces, quotes and line ends, so the n-th visible character of
        the text is the n-th visible one of the file; where escapes break that, the whole scalar is meant.
        """
        raw = self.source.text[self.start : self.end]
        head = re.match(r"[|>][^\n]*\n|['\"]|", raw)
        first, last = (head.end() if head else 0), len(raw) - raw.startswith(("'", '"'))
        visible = [i for i in range(first, last) if not raw[i].isspace()]
        if not visible or "".join(raw[i] for i in visible) != "".join(self.text.split()):
            return self.span
        before = len("".join(self.text[:offset].split()))
        inside = len("".join(self.text[offset : offset + width].split()))
        start = visible[min(before, len(visible) - 1)]
        end = visible[min(before + max(inside, 1), len(visible)) - 1]
        return self.source.span(self.start + start, self.start + end + 1)


@dataclass(eq=False)
class Sequence:
    source: Source
    start: int
    end: int
    items: list[Node] = field(default_factory=list)
    size: int = 1

    @property
    def span(self) -> Span:
        return self.source.span(self.start, self.end)


@dataclass(eq=False)
class Mapping:
    source: Source
    start: int
    end: int
    keys: dict[str, Scalar] = field(default_factory=dict)
    values: dict[str, Node] = field(default_factory=dict)
    size: int = 1

    @property
    def span(self) -> Span:
        return self.source.span(self.start, self.end)

    def set(self, key: Scalar, value: Node) -> None:
        self.keys[key.text], self.values[key.text] = key, value

    def find(self, path: Path) -> tuple[Mapping | Sequence | None, str | int | None, Node]:
        """The deepest node along `path` that exists, with its parent and its place there."""
        parent: Mapping | Sequence | None = None
        place: str | int | None = None
        node: Node = self
        for step in path:
            if isinstance(node, Mapping) and step in node.values:
                parent, place, node = node, step, node.values[str(step)]
            elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
                parent, place, node = node, step, node.items[step]
        return parent, place, node

    def key(self, path: Path) -> Scalar:
        """The key at a path that exists."""
        parent, place, _ = self.find(path)
        assert isinstance(parent, Mapping)
        return parent.keys[str(place)]

    def scalar(self, path: Path) -> Scalar:
        """The scalar at a path that exists."""
        _, _, node = self.find(path)
        assert isinstance(node, Scalar)
        return node

    def all_keys(self) -> Iterator[str]:
        """Every key at every depth."""
        for key, node in self.values.items():
            yield key
            if isinstance(node, Mapping):
                yield from node.all_keys()

    def leaves(self, path: str = "") -> Iterator[tuple[str, str]]:
        """Everything below that is not a mapping: its dotted name, and what the file says."""
        for key, node in self.values.items():
            if isinstance(node, Mapping):
                yield from node.leaves(f"{path}{key}.")
            else:
                yield f"{path}{key}", text(node)


Node = Scalar | Sequence | Mapping


def text(node: Node) -> str:
    """A scalar as the file has it; a sequence in one line."""
    return node.text if isinstance(node, Scalar) else str(plain(node))


def plain(node: Node) -> Any:
    """The tree as dicts, lists and scalars."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.values.items()}
    return [plain(item) for item in node.items] if isinstance(node, Sequence) else node.value


def parse_tree(source: Source, report: Report) -> Mapping:
    """Parse a source that must hold one mapping; InputError at the first thing that is not YAML."""
    reader = _Reader(source)
    with report.collect():
        try:
            for event in YAML(typ="safe", pure=True).parse(source.text):
                reader.event(event)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = _first_line(error.problem or error.context)
            if message == "could not find expected ':'":  # noticed on a later line
                mark = error.context_mark or mark
            message, hint = _PLAINLY.get(message.split(",")[0], (message, None))
            span = source.span(mark.index, mark.index + 1) if mark else None
            raise InputError.of(f"not YAML: {message}", span, hint) from None
        except YAMLError as error:
            raise InputError.of(f"not YAML: {_first_line(str(error))}", Span(source.file, 1)) from None
    report.check()
    if not isinstance(reader.root, Mapping):
        raise InputError.of("a model file is a mapping of `key: value` lines", Span(source.file, 1))
    return reader.root


_COLONS = "write key: value, with a space, and quote a value that has ': ' in it"
_PLAINLY = {
    "could not find expected ':'": ("a key without ': '", _COLONS),
    "mapping values are not allowed here": ("a second ': '", _COLONS),
    "expected <block end>": ("this does not belong to the block above", "lines of a block begin in one column"),
}
"""What the parser says -> what that means in a model file, and a hint."""


def _first_line(text: str | None) -> str:
    return (text or "syntax error").strip().splitlines()[0]


class _Reader:
    """Builds the tree with an explicit stack: nesting costs no Python recursion."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.root: Node | None = None
        self.open: list[tuple[Mapping | Sequence, str | None]] = []
        self.pending: list[Scalar | None] = []
        self.anchors: dict[str, Node | None] = {}
        self.documents = 0
        self.count = 0

    def event(self, event: Event) -> None:
        if isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self.error(event, "a model file holds one document")
        elif isinstance(event, AliasEvent):
            node = self.anchors.get(event.anchor)
            if node is None:
                raise self.error(event, f"the alias {quoted(event.anchor)} names nothing defined above")
            self.place(event, node)
        elif isinstance(event, (ScalarEvent, CollectionStartEvent)):
            self.begin(event)
        elif isinstance(event, CollectionEndEvent):
            self.finish(event)

    def begin(self, event: ScalarEvent | CollectionStartEvent) -> None:
        if event.tag is not None:
            tag = re.search(r"!\S*", self.source.text[event.start_mark.index :])
            raise self.error(event, f"the tag {quoted(tag[0] if tag else event.tag)} is not allowed in a model file")
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, ScalarEvent):
            value = resolve(event.value) if not event.style else event.value
            node: Node = Scalar(self.source, start, end, event.value, value)
            if event.anchor:
                self.anchors[event.anchor] = node
            self.place(event, node)
            return
        if len(self.open) >= MAX_DEPTH:
            raise self.error(event, f"nested deeper than {MAX_DEPTH} levels")
        kind = Mapping if isinstance(event, MappingStartEvent) else Sequence
        self.open.append((kind(self.source, start, end), event.anchor))
        self.pending.append(None)
        if event.anchor:
            self.anchors[event.anchor] = None

    def finish(self, event: Event) -> None:
        node, anchor = self.open.pop()
        self.pending.pop()
        node.end = max(node.start, event.end_mark.index)
        if anchor:
            self.anchors[anchor] = node
        self.place(event, node)

    def place(self, event: Event, node: Node) -> None:
        """Put a finished node into the collection that is open."""
        if not self.open:
            self.root = node
            return
        parent, _ = self.open[-1]
        parent.size += node.size
        self.count += 1
        if parent.size > MAX_NODES or self.count > MAX_NODES:
            raise self.error(event, f"more than {MAX_NODES} values, aliases counted in full")
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif (key := self.pending[-1]) is None:
            self.pending[-1] = self.new_key(event, parent, node)
        else:
            parent.set(key, node)
            self.pending[-1] = None

    def new_key(self, event: Event, parent: Mapping, node: Node) -> Scalar:
        if not isinstance(node, Scalar):
            raise InputError.of("a key must be a name", node.span)
        if node.text in parent.keys:
            first = parent.keys[node.text].span
            message = f"duplicate key {quoted(node.text)}: it is already on line {first.line}"
            raise self.error(event, message, "give one of them another name")
        return node

    def error(self, event: Event, message: str, hint: str | None = None) -> GptcError:
        return InputError.of(message, self.source.span(event.start_mark.index, event.end_mark.index), hint)


_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Plain] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_MAX_DIGITS = 64


def resolve(text: str) -> Plain:
    """The value of a plain scalar by the core schema of YAML 1.2 (section 10.3.2); numbers have at most 64 digits."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
