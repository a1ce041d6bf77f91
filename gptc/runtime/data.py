"""What to train on: text, token shards, or a folder of them, in two parts that are served as batches."""

from __future__ import annotations

import glob
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptc.errors import InputError, StorageError
from gptc.runtime.choices import ChoiceLoader
from gptc.runtime.dataset import Dataset, open_folder
from gptc.runtime.loader import SHUFFLE_SEED, Loader, beyond_vocabulary, whose_batches
from gptc.runtime.shard import Memory, Shard, Tokens, is_shard, open_shard
from gptc.runtime.tokenizer import load_tokenizer

STANDARD_LIBRARY = "the Python standard library"
"""What the data are called where none are named."""
DEFAULT_BYTES = 4 << 20  # of the default corpus: enough to learn from, read and encoded in half a second
NOT_PROSE = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
VAL_SHARE = 10  # one token in ten, the last ones
HEAD_TOKENS = 1 << 20  # of each shard, looked at before training begins; the loader looks at every batch


@dataclass(frozen=True)
class Data:
    """Where the tokens came from, and the loaders over them; questions only where they are wanted."""

    source: str
    train: Loader
    val: Loader
    choices: ChoiceLoader | None = None


def open_data(
    path: Path | None, tokenizer: str, batch: int, seq: int, vocab: int, *, val: Path | None = None,
    rank: int = 0, world: int = 1,
) -> Data:  # fmt: skip
    """The training data of one rank.

    `path` is a text file (or None: the Python standard library), a token shard, a pattern of shards such as
    `data/*_train_*.bin`, or a folder that `gptc data prepare` has made.  `tokenizer` is the name of the model's; only
    text needs it.  Validation takes `val`, a shard or a pattern; else what the folder has for it; else the last tenth.
    Raises InputError where there are too few tokens for a batch on either side of the split, where the data has
    another tokenizer than the model, or where an id is beyond `vocab`.
    """
    source = str(path) if path else STANDARD_LIBRARY
    train: Sequence[Tokens]
    check: Sequence[Tokens] = ()
    if path is not None and path.is_dir():
        splits = open_folder(path)
        _check_tokenizer(path, splits.manifest, tokenizer, vocab)
        train, check = splits.train, splits.val
    elif path is not None and (shards := find_shards(path)):
        train = shards
    else:
        train = (read_text(path, tokenizer),)
    if val is not None:
        check = find_shards(val) or (read_text(val, tokenizer),)
    if not check:
        train, check = _split(train, world * batch * seq + 1, whose_batches(batch, seq, world))
    for part in (*train, *check):
        ids = part.open()(0, min(part.count, HEAD_TOKENS))
        if ids.max() >= vocab:
            raise beyond_vocabulary(part.name, part.start, ids, vocab)
    loader = Loader(train, batch, seq, vocab, SHUFFLE_SEED, rank, world)
    return Data(source, loader, Loader(check, batch, seq, vocab, None, rank, world))


def find_shards(path: Path) -> tuple[Shard, ...]:
    """The shard of that name, or those that the pattern matches, in the order of their names; none if it is text."""
    try:
        if path.exists():
            return (open_shard(path),) if path.is_file() and is_shard(path) else ()
        return tuple(open_shard(Path(name)) for name in sorted(glob.glob(str(path))))
    except (OSError, ValueError) as error:
        raise StorageError.of(f"{path}: cannot read: {error}") from None


def read_text(path: Path | None, tokenizer: str) -> Memory:
    """The ids of a text file, or (None) of the Python standard library."""
    codec = load_tokenizer(tokenizer)
    if path is None:
        return Memory(codec.encode(standard_library()), STANDARD_LIBRARY)
    if not path.is_file():
        problem = "not a regular file" if path.exists() else "no such file"
        raise InputError.of(f"{path}: {problem}", None, "--data takes text, token shards, or a folder of them")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StorageError.of(f"{path}: cannot read: {error.strerror}") from None
    try:
        return Memory(codec.encode(text), str(path))
    except InputError as error:
        raise InputError.of(f"{path}: {error.diagnostics[0].message}", None, error.diagnostics[0].hint) from None


def _split(train: Sequence[Tokens], need: int, batches: str) -> tuple[Sequence[Tokens], Sequence[Tokens]]:
    """The last tenth of the last shard becomes validation data; a small one still gives one batch to validate on."""
    *whole, last = train
    kept = last.count - max(last.count // VAL_SHARE, need)
    if kept < need:
        message = f"{last.name}: {last.count:,} tokens; {batches} need at least {2 * need:,}"
        raise InputError.of(message, None, "use more text, or compile the model with a smaller --batch or --seq")
    return (*whole, last.part(0, kept)), (last.part(kept, last.count),)


def _check_tokenizer(folder: Path, manifest: Dataset | None, tokenizer: str, vocab: int) -> None:
    """The ids of the folder mean what the model takes them for."""
    if manifest is None:
        return
    theirs, largest = manifest.tokenizer, max(shard.max_id for shard in (*manifest.train, *manifest.val))
    if theirs.name != Path(tokenizer).name or largest >= vocab:
        message = f"{folder}: made with the tokenizer {theirs.name}, ids reach {largest}"
        other = f", or train with --tokenizer {theirs.name}" if theirs.name != tokenizer and largest < vocab else ""
        hint = f"prepare the data with --tokenizer {tokenizer}{other}"
        raise InputError.of(f"{message}; the model has {tokenizer} and {vocab}", None, hint)


def standard_library() -> bytes:
    """Sources of the running interpreter, one after another."""
    return b"\n".join(path.read_bytes() for path in standard_files())


def standard_files() -> list[Path]:
    """Of the Python standard library, in the order of their paths, some MB of them."""
    found: list[Path] = []
    total = 0
    for path in _python_files(Path(sysconfig.get_path("stdlib"))):
        found.append(path)
        total += path.stat().st_size
        if total >= DEFAULT_BYTES:
            break
    return found


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(set(folders) - NOT_PROSE)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))
