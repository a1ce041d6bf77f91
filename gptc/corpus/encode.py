"""Tokenising in parallel: pieces in, their ids out, in the order of the pieces."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from gptc.corpus.sources import Piece, documents
from gptc.errors import InputError, StorageError
from gptc.runtime.shard import Ids, format_for
from gptc.runtime.tokenizer import Tokenizer, load_tokenizer

AHEAD = 4
"""Pieces waiting for each process: it is never idle, and memory is bounded."""


@dataclass(frozen=True)
class Encoded:
    """The ids of a piece.  In front of each of its documents stands the end of text, or what does its work."""

    piece: Piece
    ids: Ids
    documents: int


def separator(tokenizer: Tokenizer) -> int:
    """The id between documents: a newline where a tokenizer has no end of text."""
    return ord("\n") if tokenizer.end_of_text is None else tokenizer.end_of_text


def encode(piece: Piece, tokenizer: Tokenizer) -> Encoded:
    """The ids of a piece; raises InputError that names the file where its text cannot be encoded."""
    dtype = format_for(tokenizer.vocab_size).dtype
    parts: list[Ids] = []
    count, mark = 0, np.array([separator(tokenizer)], dtype)
    for text in documents(piece):
        if count or piece.begins:
            parts.append(mark)
        count += 1
        try:
            parts.append(tokenizer.encode(text))
        except InputError as error:
            first = error.diagnostics[0]
            where = f" (counted from byte {piece.start} of the file)" if piece.start else ""
            raise InputError.of(f"{piece.source.path}: {first.message}{where}", None, first.hint) from None
    return Encoded(piece, np.concatenate(parts, dtype=dtype) if parts else mark[:0], count - (not piece.begins))


def encode_all(pieces: Iterable[Piece], tokenizer: str, processes: int) -> Iterator[Encoded]:
    """What `encode` makes of each, in order; with one process, in this one."""
    if processes == 1:
        codec = load_tokenizer(tokenizer)
        yield from (encode(piece, codec) for piece in pieces)
        return
    waiting: deque[Future[Encoded]] = deque()
    context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
    pool = ProcessPoolExecutor(processes, context, _begin, (tokenizer,))
    try:
        for piece in pieces:
            waiting.append(pool.submit(_encode, piece))
            if len(waiting) >= AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        hint = "use fewer --processes if memory is short"
        raise StorageError.of("a tokenising process has died", None, hint) from None
    finally:
        pool.shutdown(cancel_futures=True)


_tokenizer: Tokenizer | None = None
"""Of this process, when it is one of the pool's."""


def _begin(name: str) -> None:
    """Prepare a process of the pool: the first process alone answers to Ctrl-C, and takes this one with it."""
    global _tokenizer  # noqa: PLW0603  (the state of a process)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _tokenizer = load_tokenizer(name)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(piece: Piece) -> Encoded:
    assert _tokenizer is not None
    return encode(piece, _tokenizer)
