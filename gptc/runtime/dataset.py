"""A folder of token shards: `manifest.json` and the files that it names.

Without a manifest the files are found by their names, as llm.c's scripts give them: `*_train*.bin` and `*_val*.bin`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from gptc.errors import InputError, StorageError
from gptc.runtime.hashing import content_hash
from gptc.runtime.manifest import Size, Strict, first_mistake
from gptc.runtime.shard import MAX_TOKENS, Shard, open_shard

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 256 << 20  # bytes: some hundred for each source and shard
FORMAT = 1
CHECKSUM = "checksum"
AGAIN = "prepare the data again with `gptc data prepare`"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,250}$")]
Id = Annotated[int, Field(ge=0, lt=1 << 32)]


class TokenizerRecord(Strict):
    """What the ids mean.  `sha256` is that of llm.c's tokenizer.bin of this tokenizer."""

    name: str = Field(min_length=1)
    size: Annotated[int, Field(ge=1, le=1 << 32)]
    end_of_text: Id | None
    sha256: Sha256


class ShardRecord(Strict):
    file: FileName
    tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    max_id: Id
    sha256: Sha256


class EvaluationRecord(Strict):
    """A file of multiple-choice questions."""

    file: FileName
    examples: Annotated[int, Field(ge=1, lt=1 << 16)]
    sha256: Sha256


class SourceRecord(Strict):
    """A file that the tokens came from, as it was named."""

    name: str
    bytes: Size


class Dataset(Strict):
    """The whole file."""

    format: Literal[1]
    gptc: str
    name: FileName
    tokenizer: TokenizerRecord
    documents: Size
    sources: tuple[SourceRecord, ...]
    train: tuple[ShardRecord, ...] = ()
    val: tuple[ShardRecord, ...] = ()
    evaluation: tuple[EvaluationRecord, ...] = ()

    @property
    def records(self) -> tuple[ShardRecord | EvaluationRecord, ...]:
        return (*self.train, *self.val, *self.evaluation)

    @model_validator(mode="after")
    def _consistent(self) -> Dataset:
        names = [record.file for record in self.records]
        if not names:
            raise ValueError("no files")
        if twice := sorted({name for name in names if names.count(name) > 1 or name == MANIFEST}):
            raise ValueError(f"{twice[0]} appears twice")
        largest = max((shard.max_id for shard in (*self.train, *self.val)), default=0)
        if largest >= self.tokenizer.size or (self.tokenizer.end_of_text or 0) >= self.tokenizer.size:
            raise ValueError(f"an id is not below the tokenizer's {self.tokenizer.size}")
        return self

    def text(self) -> str:
        """The file, with the hash of all that it says."""
        body = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps({**body, CHECKSUM: content_hash(body)}, indent=1) + "\n"


def parse_dataset(text: bytes, path: Path) -> Dataset:
    """The manifest in `text`; `path` only names it in messages.  Raises InputError."""
    try:
        head = json.loads(text)
        digest = head.pop(CHECKSUM, None) if isinstance(head, dict) else None
        found = content_hash(head)
    except (ValueError, RecursionError) as error:
        raise InputError.of(f"{path}: not valid JSON: {str(error)[:200]}", None, AGAIN) from None
    if not isinstance(head, dict) or head.get("format", FORMAT) != FORMAT:
        form = repr(head.get("format"))[:40] if isinstance(head, dict) else "no object"
        raise InputError.of(f"{path}: format {form}; this gptc reads {FORMAT}", None, AGAIN)
    if digest != found:
        raise InputError.of(f"{path}: changed since it was written (checksum {found} of what it says)", None, AGAIN)
    try:
        return Dataset.model_validate_json(text)
    except ValidationError as error:
        raise InputError.of(f"{path}: {first_mistake(error)}", None, AGAIN) from None


def read_dataset(folder: Path) -> Dataset | None:
    """The manifest of the folder; None where it has none."""
    path = folder / MANIFEST
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > MANIFEST_LIMIT:
            raise InputError.of(f"{path}: larger than {MANIFEST_LIMIT >> 20} MiB, not a manifest", None, AGAIN)
        return parse_dataset(path.read_bytes(), path)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot read: {error.strerror}") from None


@dataclass(frozen=True)
class Splits:
    """The shards of a folder."""

    manifest: Dataset | None
    train: tuple[Shard, ...]
    val: tuple[Shard, ...]


def open_folder(folder: Path) -> Splits:
    """The shards, each with the size and the count that it should have.  Raises InputError."""
    manifest = read_dataset(folder)
    if manifest is None:
        found = [tuple(map(open_shard, sorted(folder.glob(f"*_{split}*.bin")))) for split in ("train", "val")]
        train, val = found
    else:
        train, val = _recorded(folder, manifest.train), _recorded(folder, manifest.val)
    if not train:
        hint = "`gptc data prepare` makes them; llm.c's scripts name them the same way"
        raise InputError.of(f"{folder}: no token shards *_train*.bin in this folder", None, hint)
    return Splits(manifest, train, val)


def _recorded(folder: Path, records: Iterable[ShardRecord]) -> tuple[Shard, ...]:
    found = []
    for record in records:
        path = folder / record.file
        if not path.is_file():
            raise InputError.of(f"{path}: no such file, but {folder / MANIFEST} names it", None, AGAIN)
        shard = open_shard(path)
        if shard.count != record.tokens:
            message = f"{path}: {shard.count} tokens; {folder / MANIFEST} says {record.tokens}"
            raise InputError.of(message, None, "is it the file of another folder?")
        found.append(replace(shard, sha256=record.sha256))
    return tuple(found)
