"""A stream of ids becomes shards: first those for validation, then those for training."""

from __future__ import annotations

from pathlib import Path

from gptc.errors import InputError
from gptc.runtime.dataset import ShardRecord
from gptc.runtime.hashing import file_hash
from gptc.runtime.shard import MAX_TOKENS, Format, Ids, encoded

SHARD_TOKENS = 100_000_000
VAL_SHARE = 10
VAL_MOST = 10_000_000
"""Tokens: validation takes one in ten, and of a large corpus this many, for more would tell no more."""


class ShardWriter:
    """Files `NAME_SPLIT_NUMBER.bin` in a folder, numbered through all splits as llm.c's scripts do.

    With `val_tokens` that many, the first, are for validation; None: a share of all, at most VAL_MOST, for which as
    much is held in memory as it takes to know the share.
    """

    def __init__(self, folder: Path, name: str, form: Format, shard_tokens: int, val_tokens: int | None) -> None:
        if not 1 <= shard_tokens <= MAX_TOKENS:
            raise InputError.of(f"shards of {shard_tokens} tokens; one holds 1 to {MAX_TOKENS}")
        self._folder, self._name, self._form, self._size = folder, name, form, shard_tokens
        self._val_tokens = val_tokens
        self._held: list[Ids] = []
        self._file: _ShardFile | None = None
        self._number = 0
        self.tokens = 0
        self.train: list[ShardRecord] = []
        self.val: list[ShardRecord] = []

    def write(self, ids: Ids) -> None:
        """The next ids of the stream."""
        self.tokens += len(ids)
        self._held.append(ids)
        if self._val_tokens is None and self.tokens >= VAL_SHARE * VAL_MOST:
            self._val_tokens = VAL_MOST
        if self._val_tokens is not None:
            self._flush(self._val_tokens)

    def write_val(self, ids: Ids) -> None:
        """Ids that are for validation, before any others."""
        self._val_tokens = 0
        self._append("val", ids)

    def finish(self) -> None:
        """The stream has ended.  Raises InputError where nothing is left to train on."""
        val = self.tokens // VAL_SHARE if self._val_tokens is None else self._val_tokens
        if self.tokens <= val:
            rest = f"{val} of them for validation leave none to train on"
            raise InputError.of(f"{self.tokens} tokens in all; {rest if val else 'there is nothing to train on'}")
        self._flush(val)
        self._close()

    def _flush(self, val_tokens: int) -> None:
        """Write what is held, which ends with token number `self.tokens`."""
        at = self.tokens - sum(map(len, self._held))
        for ids in self._held:
            first = min(max(0, val_tokens - at), len(ids))
            self._append("val", ids[:first])
            self._append("train", ids[first:])
            at += len(ids)
        self._held.clear()

    def _append(self, split: str, ids: Ids) -> None:
        while len(ids):
            if self._file is None or self._file.split != split or self._file.tokens == self._size:
                self._close()
                path = self._folder / f"{self._name}_{split}_{self._number:06d}.bin"
                self._file, self._number = _ShardFile(path, split, self._form), self._number + 1
            room = self._size - self._file.tokens
            self._file.append(ids[:room])
            ids = ids[room:]

    def _close(self) -> None:
        if self._file is not None:
            (self.val if self._file.split == "val" else self.train).append(self._file.close())
            self._file = None


class _ShardFile:
    """A shard while it grows; the header, which says how long it is, comes last."""

    def __init__(self, path: Path, split: str, form: Format) -> None:
        self.split, self.tokens = split, 0
        self._path, self._form, self._max_id = path, form, 0
        with path.open("wb") as file:
            file.write(form.header(0))

    def append(self, ids: Ids) -> None:
        if len(ids):
            with self._path.open("ab") as file:
                file.write(encoded(ids, self._form))
            self.tokens += len(ids)
            self._max_id = max(self._max_id, int(ids.max()))

    def close(self) -> ShardRecord:
        with self._path.open("r+b") as file:
            file.write(self._form.header(self.tokens))
        return ShardRecord(file=self._path.name, tokens=self.tokens, max_id=self._max_id, sha256=file_hash(self._path))
