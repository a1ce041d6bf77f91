"""Text to token ids and back: `bytes` (one id a byte) and `gpt2` (byte-pair encoding, from tiktoken)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, ToolMissing, did_you_mean

if TYPE_CHECKING:
    from tiktoken import Encoding

TOKENIZERS = ("bytes", "gpt2")
DOWNLOAD_SECONDS = 30.0  # tiktoken itself would wait for ever on a network that swallows packets
GPT2_HINT = (
    "connect to the network once, or set TIKTOKEN_CACHE_DIR to a folder with tiktoken's two files of gpt2; "
    "a model with the tokenizer `bytes` needs neither"
)


class Tokenizer(Protocol):
    """`decode(encode(text)) == text`; ids are 0..vocab_size-1."""

    name: str
    vocab_size: int

    def encode(self, text: bytes) -> NDArray[np.uint16]: ...

    def decode(self, ids: Sequence[int]) -> bytes: ...


class Bytes:
    """A byte is its own id."""

    name = "bytes"
    vocab_size = 256

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        return np.frombuffer(text, np.uint8).astype(np.uint16)

    def decode(self, ids: Sequence[int]) -> bytes:
        _check_ids(ids, self)
        return bytes(ids)


class Gpt2:
    """GPT-2's byte-pair encoding.  `<|endoftext|>` (id 50256) is never made from text, only decoded."""

    name = "gpt2"
    vocab_size = 50257

    def __init__(self) -> None:
        self._encoding = _load_gpt2()

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"byte {error.start} of the text is not UTF-8, which the tokenizer gpt2 needs"
            raise InputError.of(message, None, "convert the file, or use a model with the tokenizer bytes") from None
        return np.array(self._encoding.encode_ordinary(decoded), np.uint16)

    def decode(self, ids: Sequence[int]) -> bytes:
        _check_ids(ids, self)
        return self._encoding.decode_bytes(list(ids))


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name.  Raises ToolMissing where the vocabulary of gpt2 cannot be had."""
    match name:
        case "bytes":
            return Bytes()
        case "gpt2":
            return Gpt2()
    hint = did_you_mean(name, TOKENIZERS) or f"one of {', '.join(TOKENIZERS)}"
    raise InputError.of(f"unknown tokenizer {name!r}", None, hint)


def _load_gpt2() -> Encoding:
    """tiktoken's encoding, fetched on a thread so that a silent network costs seconds, not for ever."""
    loaded: list[Encoding] = []
    failed: list[BaseException] = []

    def load() -> None:
        try:
            import tiktoken  # here: it is slow to import and not needed for bytes

            loaded.append(tiktoken.get_encoding("gpt2"))
        except Exception as error:  # of requests, of the file system, of a damaged file: all the same to the user
            failed.append(error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if loaded:
        return loaded[0]
    reason = f"no answer in {DOWNLOAD_SECONDS:g} s" if not failed else f"{failed[0]}".split("\n")[0][:200]
    raise ToolMissing.of(f"cannot get the vocabulary of the tokenizer gpt2: {reason}", None, GPT2_HINT)


def _check_ids(ids: Sequence[int], tokenizer: Tokenizer) -> None:
    for i in ids:
        if not 0 <= i < tokenizer.vocab_size:
            size = tokenizer.vocab_size
            raise InputError.of(f"token id {i} is not in 0..{size - 1} of the tokenizer {tokenizer.name}")
