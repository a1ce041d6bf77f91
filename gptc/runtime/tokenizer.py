"""Text to token ids and back: bytes, the encodings of tiktoken, and vocabularies from files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gptc.errors import InputError, ToolMissing, did_you_mean
from gptc.runtime.shard import Ids, format_for
from gptc.runtime.vocabulary import END_OF_TEXT, Vocabulary, fingerprint, read_vocabulary

if TYPE_CHECKING:
    from tiktoken import Encoding

DOWNLOAD_SECONDS = 30.0  # tiktoken itself would wait for ever on a network that swallows packets
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""How GPT-2 cuts text into words, which no token crosses; as tiktoken writes it."""


class Tokenizer(Protocol):
    """`decode(encode(text)) == text`; ids are 0..vocab_size-1, in the narrowest format of a shard."""

    name: str
    vocab_size: int
    end_of_text: int | None
    """Stands between documents; never made from text."""

    def encode(self, text: bytes) -> Ids: ...

    def decode(self, ids: Sequence[int]) -> bytes: ...

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """The bytes of each id; none for an id that means nothing."""


class Bytes:
    """A byte is its own id."""

    name = "bytes"
    vocab_size = 256
    end_of_text: int | None = None
    tokens = tuple(bytes([i]) for i in range(256))

    def encode(self, text: bytes) -> Ids:
        return np.frombuffer(text, np.uint8).astype(np.uint16)

    def decode(self, ids: Sequence[int]) -> bytes:
        _check_ids(ids, self)
        return bytes(ids)


class Numbers:
    """A token is its id in decimal digits, apart from the next by a blank: for vocabularies of other programs."""

    name = "ids"
    vocab_size = 1 << 31
    end_of_text: int | None = None
    tokens: tuple[bytes, ...] = ()

    def encode(self, text: bytes) -> Ids:
        words = text.split()
        for word in words:
            if not word.isdigit() or len(word) > 10 or int(word) >= self.vocab_size:
                found = word.decode("utf-8", "replace")[:20]
                raise InputError.of(f"{found!r} is no token id", None, "the tokenizer ids takes numbers, as 5 17 3")
        return np.array(list(map(int, words)), np.uint32)

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(b" %d" % i for i in ids)


class BytePairs:
    """Byte-pair encoding (Sennrich et al. 2016) by tiktoken."""

    def __init__(self, name: str, encoding: Encoding) -> None:
        self.name, self._encoding = name, encoding
        self.vocab_size = encoding.n_vocab
        self.end_of_text: int | None = encoding.eot_token
        self._dtype = format_for(self.vocab_size).dtype

    def encode(self, text: bytes) -> Ids:
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"byte {error.start} of the text is not UTF-8, which the tokenizer {self.name} needs"
            raise InputError.of(message, None, "convert the file, or use a model with the tokenizer bytes") from None
        # with no special token allowed or forbidden, one that stands in the text is text like any other
        return self._encoding.encode_to_numpy(decoded, disallowed_special=()).astype(self._dtype)

    def decode(self, ids: Sequence[int]) -> bytes:
        _check_ids(ids, self)
        return b"".join(self.tokens[i] for i in ids)

    @cached_property
    def tokens(self) -> tuple[bytes, ...]:
        return tuple(map(self._token, range(self.vocab_size)))

    def _token(self, i: int) -> bytes:
        try:
            return self._encoding.decode_single_token_bytes(i)
        except KeyError:  # some encodings leave ids out
            return b""


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name: `bytes`, `ids`, one of tiktoken's encodings, or a file `.tiktoken` or `.bin`.

    Raises ToolMissing where the vocabulary of an encoding cannot be had.
    """
    if name == "bytes":
        return Bytes()
    if name == "ids":
        return Numbers()
    if Path(name).suffix in (".bin", ".tiktoken"):
        return byte_pairs(Path(name).name, read_vocabulary(Path(name)))
    import tiktoken  # here: it is slow to import and not needed for bytes

    names = tiktoken.list_encoding_names()
    if name in names:
        return BytePairs(name, _fetch(name))
    hint = did_you_mean(name, ("bytes", *names)) or f"bytes, {', '.join(names)}, or a file .tiktoken or .bin"
    raise InputError.of(f"unknown tokenizer {name!r}", None, hint)


def byte_pairs(name: str, vocabulary: Vocabulary) -> BytePairs:
    """The encoding over these tokens that cuts text into words as GPT-2 does."""
    import tiktoken

    special = {END_OF_TEXT: vocabulary.end_of_text}
    encoding = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=vocabulary.ranks, special_tokens=special)
    return BytePairs(name, encoding)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """What can be written into a file.  Raises InputError where it cannot."""
    if tokenizer.end_of_text is None:
        raise InputError.of(f"the tokenizer {tokenizer.name} has no end of text, which a file of tokens must name")
    if b"" in tokenizer.tokens:
        missing = tokenizer.tokens.index(b"")
        raise InputError.of(f"the tokenizer {tokenizer.name} has no token {missing}; a file has one for each id")
    return Vocabulary(tokenizer.tokens, tokenizer.end_of_text)


def identity(tokenizer: Tokenizer) -> str:
    """SHA-256 of what the ids mean."""
    return fingerprint(tokenizer.tokens)


def _fetch(name: str) -> Encoding:
    """tiktoken's encoding, fetched on a thread so that a silent network costs seconds, not for ever."""
    loaded: list[Encoding] = []
    failed: list[BaseException] = []

    def load() -> None:
        try:
            import tiktoken

            loaded.append(tiktoken.get_encoding(name))
        except Exception as error:  # of requests, of the file system, of a damaged file: all the same to the user
            failed.append(error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if loaded:
        return loaded[0]
    reason = f"{_root(failed[0])}".split("\n")[0][:200] if failed else f"no answer in {DOWNLOAD_SECONDS:g} s"
    hint = (
        f"connect to the network once, or set TIKTOKEN_CACHE_DIR to a folder with tiktoken's files of {name}; "
        "a model with the tokenizer `bytes` needs neither"
    )
    raise ToolMissing.of(f"cannot get the vocabulary of the tokenizer {name}: {reason}", None, hint)


def _root(error: BaseException) -> BaseException:
    """What an HTTP library's exceptions are wrapped around."""
    return _root(error.__context__) if error.__context__ else error


def _check_ids(ids: Sequence[int], tokenizer: Tokenizer) -> None:
    for i in ids:
        if not 0 <= i < tokenizer.vocab_size:
            size = tokenizer.vocab_size
            hint = "--tokenizer names the one that the model was trained with"
            raise InputError.of(f"token id {i} is not in 0..{size - 1} of the tokenizer {tokenizer.name}", None, hint)
