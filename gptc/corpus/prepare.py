"""Text files become a folder of token shards with a manifest.

Reads: sources, one after another, each asked for when the one before it is done.  Leaves: a folder that is complete,
or nothing.  Does not: print; `report` hears how far it has come.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptc import __version__
from gptc.corpus.encode import encode_all
from gptc.corpus.folder import new_folder
from gptc.corpus.sources import Piece, Source, pieces
from gptc.corpus.writer import SHARD_TOKENS, ShardWriter
from gptc.errors import InputError
from gptc.runtime.dataset import MANIFEST, Dataset, SourceRecord, TokenizerRecord
from gptc.runtime.shard import Ids, format_for
from gptc.runtime.tokenizer import Tokenizer, identity, load_tokenizer

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
SMALL_BYTES = 8 << 20
"""Of text are encoded sooner than more processes are started."""


@dataclass(frozen=True)
class Preparation:
    """What is made of the sources."""

    tokenizer: str
    out: Path
    name: str
    """Every file begins with it: letters, digits, and _ . - after the first."""
    shard_tokens: int = SHARD_TOKENS
    val_tokens: int | None = None
    limit: int | None = None
    """Tokens after which no more is read; None: all."""
    processes: int | None = None
    """None: one a core."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            message = f"{self.name!r} cannot begin the name of a file"
            raise InputError.of(message, None, "letters, digits and _ can, then also . and -")


@dataclass(frozen=True)
class Progress:
    """So much of the text has been encoded; `total_bytes` of the sources known so far."""

    bytes: int
    total_bytes: int
    tokens: int


def prepare(
    train: Iterable[Source], val: Sequence[Source], how: Preparation, report: Callable[[Progress], None]
) -> Dataset:
    """Make the folder `how.out`; with sources in `val`, these are the validation data, whatever `how` says of it.

    Raises InputError where a source cannot be read as text, where nothing is left to train on, or where the folder
    exists; StorageError where it cannot be written.
    """
    codec = load_tokenizer(how.tokenizer)
    with new_folder(how.out) as folder:
        writer = ShardWriter(folder, how.name, format_for(codec.vocab_size), how.shard_tokens, how.val_tokens)
        stream = _Stream(codec, how, report)
        for ids in stream.ids(val, None):
            writer.write_val(ids)
        for ids in stream.ids(train, how.limit):
            writer.write(ids)
        writer.finish()
        dataset = Dataset(
            format=1, gptc=__version__, name=how.name, tokenizer=describe(codec), documents=stream.documents,
            sources=tuple(stream.sources), train=tuple(writer.train), val=tuple(writer.val),
        )  # fmt: skip
        (folder / MANIFEST).write_text(dataset.text())
    return dataset


def as_utf8(name: str) -> str:
    """A file may be called anything; a manifest is UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def describe(tokenizer: Tokenizer) -> TokenizerRecord:
    """As it stands in a manifest."""
    size, end = tokenizer.vocab_size, tokenizer.end_of_text
    return TokenizerRecord(name=tokenizer.name, size=size, end_of_text=end, sha256=identity(tokenizer))


class _Stream:
    """The ids of sources, and what is worth knowing of them."""

    def __init__(self, tokenizer: Tokenizer, how: Preparation, report: Callable[[Progress], None]) -> None:
        self._tokenizer, self._how, self._report = tokenizer, how, report
        self._bytes = self._total = self._tokens = 0
        self.documents = 0
        self.sources: list[SourceRecord] = []

    def ids(self, sources: Iterable[Source], limit: int | None) -> Iterator[Ids]:
        """All ids in order, `limit` of them at most."""
        known = list(sources) if isinstance(sources, Sequence) else []
        self._total += sum(source.path.stat().st_size for source in known)
        left = limit
        for encoded in encode_all(self._pieces(sources, bool(known)), self._how.tokenizer, self._processes(known)):
            ids = encoded.ids
            if self._tokens == 0 and self._tokenizer.end_of_text is None:
                ids = ids[1:]  # a newline separates, it does not begin
            self.documents += encoded.documents
            self._bytes += encoded.piece.bytes
            ids = ids[:left]
            self._tokens += len(ids)
            yield ids
            self._report(Progress(self._bytes, self._total, self._tokens))
            if left is not None and (left := left - len(ids)) == 0:
                return

    def _pieces(self, sources: Iterable[Source], known: bool) -> Iterator[Piece]:
        for source in sources:
            size = source.path.stat().st_size
            self._total += 0 if known else size
            self.sources.append(SourceRecord(name=as_utf8(source.name), bytes=size))
            yield from pieces(source)

    def _processes(self, known: Sequence[Source]) -> int:
        """As many as were asked for; else one a core, but for little text this one."""
        if self._how.processes is not None:
            return self._how.processes
        little = known and sum(source.path.stat().st_size for source in known) < SMALL_BYTES
        return 1 if little else len(os.sched_getaffinity(0))
