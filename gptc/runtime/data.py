"""What to train on: text or a token shard, split in two, served as batches in a reproducible order."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptc.errors import InputError, StorageError
from gptc.runtime.rng import Mt19937
from gptc.runtime.shard import is_shard, read_shard
from gptc.runtime.tokenizer import Tokenizer

Tokens = NDArray[np.uint16]
Batch = tuple[NDArray[np.int32], NDArray[np.int32]]

DEFAULT_BYTES = 4 << 20  # of the default corpus: enough to learn from, read and encoded in half a second
NOT_PROSE = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
VAL_SHARE = 10  # one token in ten, the last ones
SHUFFLE_SEED = 42  # llm.c's, for rank 0
CHECK_TOKENS = 1 << 24


class Loader:
    """Batches of B*T consecutive tokens.

    Batch i is a function of i alone, so any position is reached by arithmetic.  With a seed, each epoch runs
    through a new permutation of the samples (Fisher-Yates on one mt19937 stream, as llm.c's dataloader);
    without, in file order.
    """

    def __init__(self, tokens: Tokens, batch: int, seq: int, seed: int | None) -> None:
        self._tokens, self._shape, self._seed = tokens, (batch, seq), seed
        self._order: NDArray[np.int64] | None = None
        self._epoch = -1
        self.samples = (len(tokens) - 1) // (batch * seq)
        if self.samples < 1:
            raise InputError.of(f"{len(tokens)} tokens are too few for one batch of {batch * seq + 1}")

    def batch(self, index: int) -> Batch:
        """Inputs and targets i32[B,T] of batch `index`, counted from 0 over all epochs."""
        epoch, position = divmod(index, self.samples)
        sample = position if self._seed is None else int(self._permutation(epoch, self._seed)[position])
        n = self._shape[0] * self._shape[1]
        window = self._tokens[sample * n : sample * n + n + 1].astype(np.int32)
        return window[:-1].reshape(self._shape), window[1:].reshape(self._shape)

    def _permutation(self, epoch: int, seed: int) -> NDArray[np.int64]:
        if self._order is None or epoch != self._epoch:
            rng = Mt19937(seed)
            rng.skip(epoch * (self.samples - 1))  # what the permutations before it have drawn
            self._order, self._epoch = rng.permutation(self.samples), epoch
        return self._order


@dataclass(frozen=True)
class Data:
    """Where the tokens came from, and the two loaders over them."""

    source: str
    train: Loader
    val: Loader


def open_data(path: Path | None, tokenizer: Tokenizer, batch: int, seq: int, vocab: int) -> Data:
    """Tokens of a text file, a shard, or (None) the Python standard library; the last tenth is for validation.

    Raises InputError where the corpus is too small for B*T+1 tokens on either side of the split, or has an id
    beyond `vocab`.
    """
    source = str(path) if path else "the Python standard library"
    tokens = read_tokens(path, tokenizer)
    need = batch * seq + 1
    val = max(len(tokens) // VAL_SHARE, need)  # a small corpus still gets one batch to validate on
    if len(tokens) - val < need:
        message = f"{source}: {len(tokens)} tokens; batches of {batch} x {seq} need at least {2 * need}"
        raise InputError.of(message, None, "use more text, or compile the model with a smaller --batch or --seq")
    check_ids(tokens, vocab, source)
    train = Loader(tokens[: len(tokens) - val], batch, seq, SHUFFLE_SEED)
    return Data(source, train, Loader(tokens[len(tokens) - val :], batch, seq, None))


def check_ids(tokens: Tokens, vocab: int, source: str) -> None:
    """Every id is below `vocab`, for the compiled code indexes with it."""
    for start in range(0, len(tokens), CHECK_TOKENS):
        part = tokens[start : start + CHECK_TOKENS]
        if part.max() >= vocab:
            at = start + int(np.argmax(part >= vocab))
            hint = "was it made with the tokenizer of this model?"
            raise InputError.of(f"{source}: token {at} is {tokens[at]}; the model has {vocab}", None, hint)


def read_tokens(path: Path | None, tokenizer: Tokenizer) -> Tokens:
    """Ids of a text file, a token shard, or (None) the Python standard library."""
    try:
        if path is None:
            return tokenizer.encode(standard_library())
        if not path.is_file():
            problem = "not a regular file" if path.exists() else "no such file"
            raise InputError.of(f"{path}: {problem}", None, "--data takes a text file or a token shard")
        if is_shard(path):
            return read_shard(path)
        text = path.read_bytes()
    except (OSError, ValueError) as error:
        raise StorageError.of(f"{path or 'standard library'}: cannot read: {error}") from None
    try:
        return tokenizer.encode(text)
    except InputError as error:
        raise InputError.of(f"{path}: {error.diagnostics[0].message}", None, error.diagnostics[0].hint) from None


def standard_library() -> bytes:
    """Sources of the running interpreter, in the order of their paths, some MB of them."""
    parts: list[bytes] = []
    total = 0
    for path in _python_files(Path(sysconfig.get_path("stdlib"))):
        text = path.read_bytes()
        parts.append(text)
        total += len(text)
        if total >= DEFAULT_BYTES:
            break
    return b"\n".join(parts)


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - NOT_PROSE)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))
