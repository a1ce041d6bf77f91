"""Every byte of prepared data looked at: headers, sizes, hashes, and every id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptc.errors import Diagnostic, GptcError, InputError
from gptc.runtime import choices, vocabulary
from gptc.runtime.choices import read_questions
from gptc.runtime.dataset import MANIFEST, Dataset, EvaluationRecord, ShardRecord, read_dataset
from gptc.runtime.hashing import file_hash
from gptc.runtime.loader import beyond_vocabulary
from gptc.runtime.shard import chunks, open_shard
from gptc.runtime.vocabulary import read_vocabulary


@dataclass(frozen=True)
class Checked:
    """A file that is sound."""

    file: str
    kind: str
    """token shard, questions, or tokenizer."""
    count: int
    """Of tokens or questions."""


def verify(paths: Iterable[Path], vocab: int | None, report: Callable[[str], None]) -> list[Checked]:
    """Check files and folders.  Raises InputError with one diagnostic for each file that is not sound.

    A folder with a manifest has exactly the files that it names, each with its hash.  `vocab`: ids are below it.
    """
    sound: list[Checked] = []
    wrong: list[Diagnostic] = []
    for path in paths:
        try:
            files = _listed(path)
        except GptcError as error:
            wrong += error.diagnostics
            continue
        for file, dataset, record in files:
            try:
                sound.append(_check(file, vocab, dataset, record))
                report(str(file))
            except GptcError as error:
                wrong += error.diagnostics
    if wrong:
        raise InputError(tuple(wrong))
    return sound


Record = ShardRecord | EvaluationRecord | None


def _listed(path: Path) -> list[tuple[Path, Dataset | None, Record]]:
    """The file itself; of a folder, the files that are there and those that should be."""
    if not path.is_dir():
        return [(path, None, None)]
    dataset = read_dataset(path)
    named: dict[str, Record] = {record.file: record for record in dataset.records} if dataset else {}
    files = sorted({file.name for file in path.glob("*.bin")} | named.keys())
    if not files:
        raise InputError.of(f"{path}: no files *.bin in this folder")
    return [(path / name, dataset, named.get(name)) for name in files]


def _check(path: Path, vocab: int | None, dataset: Dataset | None, record: Record) -> Checked:
    """The file has the form that its first bytes promise, and is the one that the manifest knows."""
    if not path.is_file():
        whose = f", but {path.parent / MANIFEST} names it" if record else ""
        raise InputError.of(f"{path}: no such file{whose}")
    if dataset and not record:
        raise InputError.of(f"{path}: not in {path.parent / MANIFEST}")
    with path.open("rb") as file:
        magic = int.from_bytes(file.read(4), "little")
    if magic == choices.MAGIC or isinstance(record, EvaluationRecord):
        checked, largest = _questions(path)
        recorded = record.examples if isinstance(record, EvaluationRecord) else None
    elif magic == vocabulary.MAGIC or path.suffix == ".tiktoken":
        return Checked(str(path), "tokenizer", len(read_vocabulary(path).tokens))
    else:
        checked, largest = _shard(path, dataset.tokenizer.size if dataset else vocab)
        recorded = record.tokens if isinstance(record, ShardRecord) else None
    if record is None:
        if vocab is not None and largest >= vocab:
            raise InputError.of(f"{path}: ids reach {largest}; expected ids below {vocab}")
        return checked
    manifest = path.parent / MANIFEST
    if checked.count != recorded:
        raise InputError.of(f"{path}: a {checked.kind} of {checked.count}; {manifest} says {recorded}")
    if isinstance(record, ShardRecord) and largest != record.max_id:
        raise InputError.of(f"{path}: ids reach {largest}; {manifest} says {record.max_id}")
    if (found := file_hash(path)) != record.sha256:
        raise InputError.of(f"{path}: sha256 {found}; {manifest} says {record.sha256}")
    return checked


def _shard(path: Path, vocab: int | None) -> tuple[Checked, int]:
    shard = open_shard(path)
    largest = at = 0
    for ids in chunks(shard):
        largest = max(largest, int(ids.max()))
        if vocab is not None and largest >= vocab:
            raise beyond_vocabulary(shard.name, at, ids, vocab)
        at += len(ids)
    return Checked(str(path), "token shard", shard.count), largest


def _questions(path: Path) -> tuple[Checked, int]:
    questions = read_questions(path)
    largest = max(int(np.max(part)) for q in questions for part in (q.context, *q.endings))
    return Checked(str(path), "questions", len(questions)), largest
