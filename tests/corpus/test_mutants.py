"""Damaged files of every format: refused with one line that names the file, or read as something that is sound.

GPTC_MUTANTS is how many of each format (default: some hundred); their seeds are 0, 1, 2, ...
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gptc.corpus.sources import Source, documents, pieces
from gptc.errors import GptcError
from gptc.runtime.choices import Question, read_questions, write_questions
from gptc.runtime.dataset import CHECKSUM, parse_dataset
from gptc.runtime.hashing import content_hash
from gptc.runtime.loader import Loader
from gptc.runtime.shard import GPT2, LLAMA3, Format, chunks, open_shard, write_shard
from gptc.runtime.tokenizer import byte_pairs
from gptc.runtime.vocabulary import read_vocabulary, write_vocabulary
from tests.runtime.test_dataset import GOOD, sealed
from tests.runtime.test_tokenizer import SMALL

COUNT = int(os.environ.get("GPTC_MUTANTS", "150"))
SECONDS = 2.0
GROWTH = 64 << 10
"""KiB of memory that all mutants of a format may add."""
NUMBERS = [0, 1, 2, 4, 255, 256, 65535, 65536, 50257, 2**31 - 1, 2**31, 2**32 - 1, 20240520, 20240522, 20240328]


def mutant(data: bytes, rng: random.Random) -> bytes:
    """One to four changes of the kinds that disks, networks and editors make, and of those that attackers make."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1) if rng.random() < 0.5 else rng.randrange(min(len(out), 40) + 1)
        length = rng.choice((1, 2, 3, 4, 16, 200, len(out)))
        match rng.randrange(9):
            case 0:
                out[at : at + 1] = bytes(byte ^ (1 << rng.randrange(8)) for byte in out[at : at + 1])
            case 1:
                out[at : at + length] = rng.randbytes(len(out[at : at + length]))
            case 2:
                del out[at:]
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = rng.randbytes(min(length, 200))
            case 5:
                out[at:at] = out[at : at + min(length, 2000)]
            case 6:
                size = rng.choice((2, 4))
                number = rng.choice(NUMBERS) % (1 << 8 * size)
                out[at - at % size : at - at % size + size] = number.to_bytes(size, "little")
            case 7:
                out[at : at + length] = bytes([rng.choice((0, 255, 32, 10, 123, 91, 34))]) * len(out[at : at + length])
            case _:
                number = rng.choice((b"-1", b"1e999", b"9" * 30, b'"', b"null", b"[[[[", b"NaN", b"\\ud800", b"0.5"))
                out[at : at + len(number)] = number
    return bytes(out)


def shard(folder: Path, form: Format) -> tuple[Path, Callable[[Path], object]]:
    write_shard(folder / "t.bin", np.arange(300) * 7 % 251, form)

    def read(path: Path) -> object:
        found = open_shard(path)
        assert sum(map(len, chunks(found))) == found.count
        x, y = Loader([found], 2, 8, 256, 42).batch(5)
        assert 0 <= min(x.min(), y.min()) <= max(x.max(), y.max()) < 256
        return found

    return folder / "t.bin", read


def questions(folder: Path) -> tuple[Path, Callable[[Path], object]]:
    rng = np.random.default_rng(0)
    parts = [[rng.integers(1, 50, rng.integers(1, 6)).astype(np.uint16) for _ in range(5)] for _ in range(9)]
    write_questions(folder / "q.bin", [Question(p[0], tuple(p[1:]), k % 4) for k, p in enumerate(parts)])

    def read(path: Path) -> object:
        found = read_questions(path)
        write_questions(folder / "again", found)
        assert (folder / "again").read_bytes()[1024:] == path.read_bytes()[1024:]
        return found

    return folder / "q.bin", read


def vocabulary(folder: Path, name: str) -> tuple[Path, Callable[[Path], object]]:
    write_vocabulary(folder / name, SMALL)

    def read(path: Path) -> object:
        found = read_vocabulary(path)
        codec = byte_pairs(path.name, found)
        assert codec.decode(codec.encode(b"and the end \xc3\xa9").tolist()) == b"and the end \xc3\xa9"
        write_vocabulary(folder / "again.bin", found)
        assert read_vocabulary(folder / "again.bin") == found
        return found

    return folder / name, read


def manifest(folder: Path) -> tuple[Path, Callable[[Path], object]]:
    """Half of the mutants get the checksum of what they say, so that this is what must be judged."""
    (folder / "manifest.json").write_bytes(sealed(GOOD))

    def read(path: Path) -> object:
        data = path.read_bytes()
        if len(data) % 2:
            try:
                content = json.loads(data)
                content.pop(CHECKSUM, None)
                data = json.dumps({**content, CHECKSUM: content_hash(content)}).encode()
            except (ValueError, AttributeError, RecursionError):
                pass
        found = parse_dataset(data, path)
        return parse_dataset(found.text().encode(), path)

    return folder / "manifest.json", read


def source(folder: Path, name: str, kind: str, data: bytes) -> tuple[Path, Callable[[Path], object]]:
    (folder / name).write_bytes(data)

    def read(path: Path) -> object:
        texts = [t for piece in pieces(Source(path, path.name, kind)) for t in documents(piece)]
        return [text.decode() for text in texts]

    return folder / name, read


def parquet(folder: Path) -> tuple[Path, Callable[[Path], object]]:
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    writer.write_table(pyarrow.table({"text": [f"text {k}" for k in range(50)]}), buffer, row_group_size=20)
    return source(folder, "t.parquet", "parquet", buffer.getvalue())


def archive(folder: Path) -> tuple[Path, Callable[[Path], object]]:
    from gptc.corpus.recipes import unpacked

    with tarfile.open(folder / "t.tar.gz", "w:gz") as tar:
        for name in ("a.json", "b.json"):
            member = tarfile.TarInfo(name)
            member.size = 16
            tar.addfile(member, io.BytesIO(b'[{"text": "abc"}'))

    def read(path: Path) -> object:
        with unpacked(path) as files:
            return [file.read_bytes() for file in files]

    return folder / "t.tar.gz", read


LINES = b'{"text": "a\\u00e9"}\n{"text": "b", "n": [1, {"x": null}]}\n' * 5
FORMATS: dict[str, Callable[[Path], tuple[Path, Callable[[Path], object]]]] = {
    "shard": lambda folder: shard(folder, GPT2),
    "wide shard": lambda folder: shard(folder, LLAMA3),
    "questions": questions,
    "tokenizer.bin": lambda folder: vocabulary(folder, "t.bin"),
    "rank file": lambda folder: vocabulary(folder, "t.tiktoken"),
    "manifest": manifest,
    "JSONL": lambda folder: source(folder, "t.jsonl", "lines", LINES),
    "stories": lambda folder: source(folder, "t.json", "stories", b'[{"text": " a "}, {"text": "b", "n": 1.5}]'),
    "parquet": parquet,
    "archive": archive,
}


def wrong_with(error: GptcError, folder: Path) -> str | None:
    """What keeps this from being one line that says which file is to blame."""
    messages = [d.message for d in error.diagnostics]
    if error.code != 1:
        return f"code {error.code}"
    if len(messages) != 1 or len(messages[0].splitlines()) != 1 or len(messages[0]) > 2000:
        return "not one line"
    return None if str(folder) in messages[0] else "no file named"


@pytest.mark.parametrize("name", FORMATS)
def test_mutants(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptc.runtime.atomic.sync", lambda path: None)  # these files need not last
    path, read = FORMATS[name](tmp_path)
    good = path.read_bytes()
    read(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = slowest = 0.0
    for seed in range(COUNT):
        path.write_bytes(mutant(good, random.Random(seed)))
        start = time.process_time()
        try:
            read(path)
        except GptcError as error:
            refused += 1
            if fault := wrong_with(error, tmp_path):
                pytest.fail(f"seed {seed}: {fault}: {error}")
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        slowest = max(slowest, time.process_time() - start)
    assert refused > COUNT / 4
    assert slowest < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH
