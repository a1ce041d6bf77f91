"""Files that say which bytes a token id stands for.

A rank file (tiktoken's `.tiktoken`) has a line for each token: its bytes in base64, and its rank, which is its id.
llm.c's `tokenizer.bin` has a header of 256 little-endian uint32 (magic, version, number of tokens, id of the end of
text), then for each id a byte with the length of its token, and the token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptc.errors import InputError
from gptc.runtime.atomic import replacing
from gptc.runtime.bounded import read_bounded

MAGIC, VERSION = 20240328, 2
GPT2_SIZE = 50257  # version 1 was for GPT-2 alone, and did not name its end of text, which is the last token
HEADER_BYTES = 1024
MAX_TOKEN_BYTES = 255
MAX_FILE_BYTES = 64 << 20  # the largest that is published has 4 MB
END_OF_TEXT = "<|endoftext|>"
OTHER_PATTERNS = {
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": "cl100k_base",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": "o200k_base",
}
"""Rank files of tiktoken whose text is cut into words in another way than GPT-2's, which the file does not say."""


@dataclass(frozen=True)
class Vocabulary:
    """`tokens[i]` are the bytes of id i; the bytes of the end of text are only for show.

    Every single byte is a token, so that any text can be encoded; ids are in the order of merging.
    """

    tokens: tuple[bytes, ...]
    end_of_text: int

    @property
    def ranks(self) -> dict[bytes, int]:
        """What text can become: all but the end of text."""
        return {token: i for i, token in enumerate(self.tokens) if i != self.end_of_text}


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in a file of either kind, which `.bin` and `.tiktoken` tell apart.  Raises InputError."""
    data = read_bounded(path, MAX_FILE_BYTES, "tokenizer")
    found = _parse_binary(data, path) if path.suffix == ".bin" else _parse_ranks(data, path)
    ranks = found.ranks
    if len(ranks) != len(found.tokens) - 1:
        twice = next(i for i, token in enumerate(found.tokens) if ranks.get(token, i) != i)
        raise InputError.of(f"{path}: token {twice} is there twice")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise InputError.of(f"{path}: no token for the byte {missing[0]}; each of the 256 needs one")
    return found


def need_suffix(path: Path) -> None:
    """Raises InputError for a name that does not tell in which format to write."""
    if path.suffix not in (".bin", ".tiktoken"):
        raise InputError.of(f"{path}: the suffix is not .bin or .tiktoken", None, "it chooses the format")


def write_vocabulary(path: Path, found: Vocabulary) -> None:
    """Write llm.c's format for the suffix `.bin`, a rank file for `.tiktoken`; the file appears whole or not at all."""
    need_suffix(path)
    if path.suffix == ".tiktoken":
        if found.end_of_text != len(found.tokens) - 1:
            message = f"{path}: the end of text is token {found.end_of_text}; in a rank file it follows the last"
            raise InputError.of(message, None, "write a .bin")
        lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(found.tokens[:-1])]
        data = b"".join(lines)
    else:
        header = np.zeros(HEADER_BYTES // 4, "<u4")
        header[:4] = MAGIC, VERSION, len(found.tokens), found.end_of_text
        data = header.tobytes() + _table(found.tokens)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def fingerprint(tokens: Sequence[bytes]) -> str:
    """SHA-256 of the table of a tokenizer.bin; an id without a token counts as one of length 0."""
    return hashlib.sha256(_table(tokens)).hexdigest()


def _table(tokens: Sequence[bytes]) -> bytes:
    return b"".join(bytes([len(token)]) + token for token in tokens)


def _parse_binary(data: bytes, path: Path) -> Vocabulary:
    if len(data) < HEADER_BYTES:
        raise InputError.of(f"{path}: {len(data)} bytes, too short for the header of a tokenizer ({HEADER_BYTES})")
    magic, version, count, end = (int(word) for word in np.frombuffer(data, "<u4", 4))
    if magic != MAGIC or version not in (1, VERSION):
        found = f"magic {magic}, version {version}; expected {MAGIC}, 1 or {VERSION}"
        raise InputError.of(f"{path}: no tokenizer of llm.c ({found})")
    if version == 1:
        if count != GPT2_SIZE:
            raise InputError.of(f"{path}: {count} tokens; version 1 has {GPT2_SIZE}")
        end = GPT2_SIZE - 1
    tokens, at = [], HEADER_BYTES
    for i in range(count):
        size = data[at] if at < len(data) else 0
        if size == 0 or at + 1 + size > len(data):
            problem = "has no bytes" if at < len(data) and size == 0 else "is not there: the file ends"
            raise InputError.of(f"{path}: token {i} of {count} {problem}")
        tokens.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    if at != len(data):
        raise InputError.of(f"{path}: {len(data) - at} bytes after the last of {count} tokens")
    if end >= count:
        raise InputError.of(f"{path}: the end of text is token {end} of {count}")
    return Vocabulary(tuple(tokens), end)


def _parse_ranks(data: bytes, path: Path) -> Vocabulary:
    if other := OTHER_PATTERNS.get(hashlib.sha256(data).hexdigest()):
        message = f"{path}: the ranks of {other}, which cuts text into other words than GPT-2"
        raise InputError.of(message, None, f"use --tokenizer {other}")
    tokens = []
    for rank, line in enumerate(data.splitlines()):
        text, _, number = line.partition(b" ")
        try:
            token = base64.b64decode(text, validate=True)
        except binascii.Error:
            token = b""
        if number != b"%d" % rank or not 1 <= len(token) <= MAX_TOKEN_BYTES:
            found = line[:40].decode("ascii", "replace")
            expected = f"1 to {MAX_TOKEN_BYTES} bytes in base64 and the rank {rank}"
            raise InputError.of(f"{path}:{rank + 1}: {found!r}; expected {expected}")
        tokens.append(token)
    if not tokens:
        raise InputError.of(f"{path}: no tokens in this rank file")
    return Vocabulary((*tokens, END_OF_TEXT.encode()), len(tokens))
