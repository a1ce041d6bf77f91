"""Documents in files: what a file holds, how it is cut into pieces of work, and the text of a piece.

A piece is read where it is encoded, in another process; only its description travels there.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptc.errors import InputError, StorageError, ToolMissing

PIECE_BYTES = 2 << 20
"""Of text in a piece: half a second's work, so that there is progress to show and every process has something."""
WINDOW_BYTES = 1 << 16
PLACE = re.compile(rb"[0-9A-Za-z.,;:!?]\n(?=[A-Za-z])")
"""Where text may be cut without changing its tokens: the words of all known encodings end at a single newline
between two such characters."""
SUFFIXES = {".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"}
TEXT_FIELD = "text"
ARROW_HINT = "pip install 'gptc[data]'"


@dataclass(frozen=True)
class Source:
    """A file of documents.

    `name` is what the manifest calls it, `kind` one of READERS, `field` where the text is in a record of the kinds
    that have records.
    """

    path: Path
    name: str
    kind: str
    field: str = TEXT_FIELD
    shuffle: int | None = None
    """Seed of a shuffle of the records (kind `stories`)."""


@dataclass(frozen=True)
class Piece:
    """Bytes `start` to `stop` of a source; for parquet, row groups.  `begins`: its first byte begins a document.

    `bytes` is how much of the file it is.
    """

    source: Source
    start: int
    stop: int
    bytes: int
    begins: bool = True


def find_sources(paths: list[Path], field: str) -> list[Source]:
    """The files themselves, and all files in the folders, in the order of their names; hidden ones are left out."""
    found: list[Source] = []
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
            names = [str(Path(path.resolve().name) / file.relative_to(path)) for file in files]
            if not files:
                raise InputError.of(f"{path}: no files in this folder")
        elif path.is_file():
            files, names = [path], [path.name]
        else:
            raise InputError.of(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        for file, name in zip(files, names, strict=True):
            found.append(Source(file, name, SUFFIXES.get(file.suffix.lower(), "text"), field))
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def pieces(source: Source) -> Iterator[Piece]:
    """All of a source, in order."""
    try:
        size = source.path.stat().st_size
        if source.kind == "parquet":
            groups = _parquet(source).num_row_groups
            yield from (Piece(source, group, group + 1, size // groups) for group in range(groups))
        elif source.kind in ("text", "lines"):
            yield from _cut(source, size)
        else:
            yield Piece(source, 0, size, size)
    except OSError as error:
        raise StorageError.of(f"{source.path}: cannot read: {error.strerror or error}") from None


def documents(piece: Piece) -> Iterator[bytes]:
    """The text of each document of a piece, UTF-8.  Raises InputError with the place where a record is wrong."""
    try:
        yield from READERS[piece.source.kind](piece)
    except OSError as error:
        raise StorageError.of(f"{piece.source.path}: cannot read: {error.strerror or error}") from None


def _cut(source: Source, size: int) -> Iterator[Piece]:
    """Pieces of some MB: text between two lines where no word crosses, records after a line."""
    place = PLACE if source.kind == "text" else re.compile(rb"\n")
    with source.path.open("rb") as file:
        start = 0
        while start < size:
            stop = _place(file, start + PIECE_BYTES, size, place)
            yield Piece(source, start, stop, stop - start, start == 0 or source.kind == "lines")
            start = stop


def _place(file: Any, at: int, size: int, place: re.Pattern[bytes]) -> int:
    """The first place to cut from byte `at` on; the end of the file where there is none."""
    while at < size:
        file.seek(at)
        window = file.read(WINDOW_BYTES)
        if found := place.search(window):
            return int(at + found.end())
        at += max(1, len(window) - 2)  # a place may lie across two windows
    return size


def _bytes(piece: Piece) -> bytes:
    with piece.source.path.open("rb") as file:
        file.seek(piece.start)
        return file.read(piece.stop - piece.start)


def _text(piece: Piece) -> Iterator[bytes]:
    """The file is one document."""
    yield _bytes(piece)


def _sections(piece: Piece) -> Iterator[bytes]:
    """An empty line ends a document, and is part of it."""
    *before, last = _bytes(piece).split(b"\n\n")
    yield from (part + b"\n\n" for part in before)
    yield last


def _lines(piece: Piece) -> Iterator[bytes]:
    """A JSON object a line."""
    at = piece.start
    for line in _bytes(piece).split(b"\n"):
        if line.strip():
            yield _field(line, piece.source, at)
        at += len(line) + 1


def _field(line: bytes, source: Source, at: int) -> bytes:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError.of(f"{source.path}:{_line_number(source.path, at)}: not valid JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get(source.field), str):
        found = f"an object with {_names(record)}" if isinstance(record, dict) else "no object"
        message = f"{source.path}:{_line_number(source.path, at)}: no text under {source.field!r} ({found})"
        raise InputError.of(message, None, "--field names where the text is")
    return _utf8(record[source.field])


def _names(names: Iterable[str]) -> str:
    """The first of them, on one line."""
    return ", ".join(repr(name)[1:-1][:40] for name in list(names)[:9])


def _line_number(path: Path, at: int) -> int:
    """Of the line that begins at byte `at`."""
    with path.open("rb") as file:
        return 1 + sum(file.read(min(PIECE_BYTES, at - start)).count(b"\n") for start in range(0, at, PIECE_BYTES))


def _stories(piece: Piece) -> Iterator[bytes]:
    """A JSON list of records, shuffled; spaces around a text do not count."""
    source = piece.source
    try:
        records = json.loads(_bytes(piece))
        texts = [record[source.field] for record in records]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{source.field!r} is not always text")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError.of(f"{source.path}: not a JSON list of objects with {source.field!r}: {error}") from None
    if source.shuffle is not None:
        random.Random(source.shuffle).shuffle(texts)
    yield from (_utf8(text.strip()) for text in texts)


def _utf8(text: str) -> bytes:
    """JSON may hold halves of surrogate pairs, which UTF-8 may not: they become U+FFFD, as in tiktoken."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _rows(piece: Piece) -> Iterator[bytes]:
    """A row is a document."""
    table, source = _parquet(piece.source), piece.source
    if source.field not in table.schema_arrow.names:
        message = f"{source.path}: no column {source.field!r} (it has {_names(table.schema_arrow.names)})"
        raise InputError.of(message, None, "--field names the column with the text")
    import pyarrow

    try:
        for batch in table.iter_batches(row_groups=range(piece.start, piece.stop), columns=[source.field]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    kind = table.schema_arrow.field(source.field).type
                    raise InputError.of(f"{source.path}: the column {source.field!r} is {kind}, with {text!r:.40}")
                yield text.encode()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError.of(f"{source.path}: damaged parquet: {first_line(error)}") from None


def _parquet(source: Source) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ToolMissing.of(f"{source.path}: reading parquet needs pyarrow", None, ARROW_HINT) from None
    try:
        return parquet.ParquetFile(os.fspath(source.path), memory_map=False)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError.of(f"{source.path}: not a parquet file: {first_line(error)}") from None


READERS: dict[str, Callable[[Piece], Iterator[bytes]]] = {
    "text": _text,
    "lines": _lines,
    "parquet": _rows,
    "sections": _sections,
    "stories": _stories,
}
"""Kind of a source -> the documents of a piece of one."""


def first_line(error: Exception) -> str:
    """Of what a library says, which may be long."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def text_of(sources: list[Source]) -> Iterator[str]:
    """The text of every piece, for those who do not mind where a document ends.  Raises InputError: not UTF-8."""
    for source in sources:
        for piece in pieces(source):
            for text in documents(piece):
                try:
                    yield text.decode()
                except UnicodeDecodeError as error:
                    where = f"byte {error.start} from byte {piece.start} on"
                    raise InputError.of(f"{source.path}: {where} is not UTF-8") from None
