"""`gptc data verify` finds every byte that is not as it was written."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from gptc.corpus.sources import find_sources
from gptc.corpus.verify import verify
from gptc.errors import InputError
from gptc.runtime.choices import Question, write_questions
from gptc.runtime.shard import GPT2, write_shard
from gptc.runtime.vocabulary import write_vocabulary
from tests.corpus.test_prepare import run, text
from tests.runtime.test_tokenizer import SMALL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_text(text(0))
    run(find_sources([tmp_path / "t.txt"], "text"), tmp_path / "data", "bytes", shard_tokens=1000)
    return tmp_path / "data"


def problems(*paths: Path, vocab: int | None = None) -> list[str]:
    try:
        verify(paths, vocab, lambda file: None)
    except InputError as error:
        return [str(d) for d in error.diagnostics]
    return []


def test_what_is_sound(folder: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    sound = verify([folder], None, seen.append)
    assert [item.kind for item in sound] == ["token shard"] * len(list(folder.glob("*.bin")))
    assert len(seen) == len(sound) > 3
    write_vocabulary(tmp_path / "t.bin", SMALL)
    write_vocabulary(tmp_path / "t.tiktoken", SMALL)
    ids = np.array([1, 2], np.uint16)
    write_questions(tmp_path / "q.bin", [Question(ids, (ids,) * 4, 0)])
    found = verify([tmp_path / name for name in ("t.bin", "t.tiktoken", "q.bin")], 99, lambda file: None)
    assert [(item.kind, item.count) for item in found] == [("tokenizer", 265), ("tokenizer", 265), ("questions", 1)]


def test_every_flipped_bit_is_found(folder: Path) -> None:
    """Each of 300, in headers, ids and the manifest."""
    rng = random.Random(0)
    files = sorted(folder.iterdir())
    for _ in range(300):
        path = rng.choice(files)
        good = path.read_bytes()
        at = rng.randrange(len(good))
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        found = problems(folder)
        assert found, f"{path.name}, byte {at}"
        assert all(str(folder) in line and "\n" not in line.split("\n  help")[0] for line in found)
        path.write_bytes(good)
    assert problems(folder) == []


def test_files_that_are_swapped_missing_or_strange(folder: Path) -> None:
    a, b = sorted(folder.glob("*_train_*"))[:2]
    good = a.read_bytes(), b.read_bytes()
    a.write_bytes(good[1])
    b.write_bytes(good[0])
    assert len(problems(folder)) == 2
    assert "sha256" in problems(folder)[0] or "ids reach" in problems(folder)[0]
    a.write_bytes(good[0])
    b.write_bytes(good[1])
    b.unlink()
    write_shard(folder / "stray.bin", np.arange(5))
    missing, stray = sorted(problems(folder), reverse=True)
    assert "no such file, but" in missing
    assert "stray.bin: not in" in stray


def test_without_a_manifest(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", np.arange(300))
    (tmp_path / "b.bin").write_bytes(GPT2.header(7))
    (one,) = problems(tmp_path)
    assert "b.bin: the header says 7 tokens" in one
    two = problems(tmp_path, vocab=256)
    assert "a.bin: token 256 is 256; the model has 256" in two[0]
    (tmp_path / "empty").mkdir()
    assert "no files *.bin" in problems(tmp_path / "empty")[0]
    assert "no such file" in problems(tmp_path / "none")[0]
