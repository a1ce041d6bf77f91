"""Data sets by name: where their files are, and how llm.c's scripts make tokens of them."""

from __future__ import annotations

import json
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gptc import __version__
from gptc.corpus.download import Remote, Report, download, list_folder, require_files
from gptc.corpus.folder import new_folder
from gptc.corpus.prepare import Preparation, as_utf8, describe
from gptc.corpus.sources import Source, find_sources, first_line
from gptc.errors import InputError, StorageError, did_you_mean
from gptc.runtime.choices import Question, write_questions
from gptc.runtime.dataset import MANIFEST, Dataset, EvaluationRecord, SourceRecord
from gptc.runtime.hashing import file_hash
from gptc.runtime.tokenizer import Tokenizer, load_tokenizer

SHAKESPEARE = Remote(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "tinyshakespeare.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)  # fmt: skip
STORIES = Remote(
    "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/"
    "TinyStories_all_data.tar.gz",
    "TinyStories_all_data.tar.gz", "26cf7605aca15bc4ea6fa637256400d9d01317b28ed296172b2d1dd160cd7699",
)  # fmt: skip
HELLASWAG = Remote(
    "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
    "hellaswag_val.jsonl", "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
)  # fmt: skip
FINEWEB_EDU = ("HuggingFaceFW/fineweb-edu", "sample/10BT")
STORIES_SEED = 1337
SHAKESPEARE_VAL = 32768
RECIPES = ("tinyshakespeare", "tinystories", "fineweb-edu", "hellaswag")


@dataclass(frozen=True)
class Input:
    """What a recipe gives to `prepare`; training sources may be fetched only when they are asked for."""

    train: Iterator[Source] | list[Source]
    val: list[Source] = field(default_factory=list)
    val_tokens: int | None = None


def check_recipe(name: str) -> None:
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES) or f"one of {', '.join(RECIPES)}"
        raise InputError.of(f"unknown recipe {name!r}", None, hint)


@contextmanager
def recipe_input(name: str, given: list[Path], cache: Path, how: Preparation, report: Report) -> Iterator[Input]:
    """The sources of a recipe of text, from the files that were given or else from the network.

    tinyshakespeare: a section between empty lines is a document, the first 32,768 tokens are for validation.
    tinystories: a story is a document, those of the first file are for validation, each file is shuffled.
    fineweb-edu: a page is a document, the first shard is for validation.
    """
    match name:
        case "tinyshakespeare":
            path = _only(given, name) or download(SHAKESPEARE, cache, report)
            yield Input([Source(path, path.name, "sections")], val_tokens=SHAKESPEARE_VAL)
        case "tinystories":
            path = _only(given, name) or download(STORIES, cache, report)
            with unpacked(path) as files:
                val, *train = files
                if not train:
                    raise InputError.of(f"{path}: one file of stories; the first is for validation, so two are needed")
                yield Input(_stories(train), _stories([val]))
        case _:
            require_files(given, name, one=False)
            pages = find_sources(given, "text") if given else _fetched(cache, report)
            yield Input(pages, val_tokens=how.shard_tokens)


def _only(given: list[Path], name: str) -> Path | None:
    if given:
        require_files(given, name, one=True)
    return given[0] if given else None


def _fetched(cache: Path, report: Report) -> Iterator[Source]:
    """Pages of the sample of 10 billion tokens, file after file as they are needed."""
    for remote in list_folder(*FINEWEB_EDU):
        yield Source(download(remote, cache, report), remote.name, "parquet")


def _stories(files: list[Path]) -> list[Source]:
    return [
        Source(file, file.name, "stories", "story", STORIES_SEED + number) for number, file in enumerate(files)
    ]  # as llm.c: the count begins anew with each split


@contextmanager
def unpacked(path: Path) -> Iterator[list[Path]]:
    """The JSON files of a folder or an archive, which is unpacked beside itself for as long as this lasts."""
    if path.is_dir():
        yield _json_files(path)
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:64]}.") as folder:
        try:
            with tarfile.open(path, "r:*") as archive:
                members = [m for m in archive if m.isfile() and Path(m.name).suffix == ".json"]
                for member in members:
                    flat = member.replace(name=Path(member.name).name, deep=False)
                    archive.extract(flat, folder, filter="data")
        except (tarfile.TarError, zlib.error, EOFError, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # else it is gzip that complains
                raise StorageError.of(f"{path}: cannot unpack: {error.strerror}") from None
            raise InputError.of(f"{path}: not an archive that can be unpacked: {first_line(error)}") from None
        yield _json_files(Path(folder))


def _json_files(folder: Path) -> list[Path]:
    if not (found := sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))):
        raise InputError.of(f"{folder}: no files *.json")
    return found


# -- HellaSwag -----------------------------------------------------------------------------------------


def prepare_hellaswag(given: list[Path], cache: Path, how: Preparation, report: Report) -> Dataset:
    """Questions from a line of JSON each become a folder with a file in llm.c's format, and a manifest."""
    path = _only(given, "hellaswag") or download(HELLASWAG, cache, report)
    codec = load_tokenizer(how.tokenizer)
    questions = [_question(line, f"{path}:{number}", codec) for number, line in _numbered_lines(path)]
    with new_folder(how.out) as folder:
        file = folder / f"{how.name}_val.bin"
        write_questions(file, questions)
        record = EvaluationRecord(file=file.name, examples=len(questions), sha256=file_hash(file))
        dataset = Dataset(
            format=1, gptc=__version__, name=how.name, tokenizer=describe(codec), documents=len(questions),
            sources=(SourceRecord(name=as_utf8(path.name), bytes=path.stat().st_size),), evaluation=(record,),
        )  # fmt: skip
        (folder / MANIFEST).write_text(dataset.text())
    return dataset


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except OSError as error:
        raise StorageError.of(f"{path}: cannot read: {error.strerror}") from None


def _question(line: bytes, where: str, codec: Tokenizer) -> Question:
    try:
        record = json.loads(line)
        context, endings, label = record["ctx"], record["endings"], record["label"]
        if type(label) is not int or not all(isinstance(text, str) for text in (context, *endings)):
            raise TypeError("ctx and endings are text, label is a number")
        ids = [codec.encode(text.encode()) for text in (context, *(f" {ending}" for ending in endings))]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError.of(f"{where}: not a question of HellaSwag: {error!r:.100}") from None
    if max((int(part.max()) for part in ids if len(part)), default=0) > np.iinfo(np.uint16).max:
        raise InputError.of(f"{where}: an id of {codec.name} does not fit into 16 bits", None, "use --tokenizer gpt2")
    context_ids, *ending_ids = (part.astype(np.uint16) for part in ids)
    return Question(context_ids, tuple(ending_ids), label)
