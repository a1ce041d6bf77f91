"""Tokenizers, shards, and the order in which batches are served."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from gptc.errors import InputError, StorageError, ToolMissing
from gptc.runtime import tokenizer as tokenizer_module
from gptc.runtime.data import DEFAULT_BYTES, open_data, standard_library
from gptc.runtime.shard import GPT2, write_shard
from gptc.runtime.tokenizer import Bytes, Gpt2, load_tokenizer

needs_vocabulary = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="set TIKTOKEN_CACHE_DIR to a folder with the vocabulary of gpt2"
)
TEXTS = ("", "Hello", "naïve café\r\n\t😀😀", "0123456789" * 50, "<|endoftext|>", "a" * 5000, "\0\x7f")


@pytest.fixture
def gpt2() -> Gpt2:
    return Gpt2()


def test_bytes() -> None:
    every = bytes(range(256))
    assert Bytes().encode(every).tolist() == list(range(256))
    assert Bytes().decode(Bytes().encode(every).tolist()) == every


@needs_vocabulary
def test_gpt2(gpt2: Gpt2) -> None:
    for text, ids in (("Hello", 15496), (" hello", 23748), (" dog", 3290), (" my", 616)):
        assert gpt2.encode(text.encode()).tolist() == [ids]
    assert gpt2.decode([50256]) == b"<|endoftext|>"
    for text in TEXTS:
        ids = gpt2.encode(text.encode()).tolist()
        assert 50256 not in ids
        assert gpt2.decode(ids) == text.encode()
    with pytest.raises(InputError, match="byte 1 of the text is not UTF-8"):
        gpt2.encode(b"a\xff")


@needs_vocabulary
@pytest.mark.parametrize("i", [-1, 50257, 1 << 70])
def test_ids_out_of_range(gpt2: Gpt2, i: int) -> None:
    with pytest.raises(InputError, match=r"is not in 0\.\.50256"):
        gpt2.decode([i])
    with pytest.raises(InputError, match=r"is not in 0\.\.255"):
        Bytes().decode([1, i])


def test_unknown_tokenizer() -> None:
    with pytest.raises(InputError, match=r"(?s)unknown tokenizer 'gpt-2'.*did you mean 'gpt2'"):
        load_tokenizer("gpt-2")


TWO_WAYS = r"(?s)cannot get the vocabulary.*{}.*help: connect to the network once, or set TIKTOKEN_CACHE_DIR"


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken.load

    def refuse(path: str) -> bytes:
        raise ConnectionError(f"no route to {path}")

    monkeypatch.setattr(tiktoken.load, "read_file", refuse)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    with pytest.raises(ToolMissing, match=TWO_WAYS.format("no route to")):
        load_tokenizer("gpt2")


def test_a_silent_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken.load

    monkeypatch.setattr(tiktoken.load, "read_file", lambda path: time.sleep(1))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr(tokenizer_module, "DOWNLOAD_SECONDS", 0.1)
    with pytest.raises(ToolMissing, match=TWO_WAYS.format(r"no answer in 0\.1 s")):
        load_tokenizer("gpt2")


def test_default_corpus() -> None:
    text = standard_library()
    assert DEFAULT_BYTES <= len(text) < 2 * DEFAULT_BYTES
    assert text == standard_library()
    text.decode("utf-8")
    data = open_data(None, "bytes", 4, 64, 256)
    assert data.train.samples > 8 * data.val.samples > 8000


@pytest.mark.parametrize("size", [0, 1, 16, 17, 33])
def test_tiny_corpora(tmp_path: Path, size: int) -> None:
    path = tmp_path / "tiny.txt"
    path.write_bytes(b"x" * size)
    with pytest.raises(InputError, match=f"{size} tokens; batches of 2 x 8 need at least 34"):
        open_data(path, "bytes", 2, 8, 256)


def test_split(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(34)))
    data = open_data(path, "bytes", 2, 8, 256)
    assert (data.train.samples, data.val.samples) == (1, 1)
    assert data.train.batch(0)[1].max() == 16
    assert data.val.batch(0)[0].min() == 17
    path.write_bytes(b"x" * 10_000)
    data = open_data(path, "bytes", 2, 8, 256)
    assert (data.train.samples, data.val.samples) == (8999 // 16, 999 // 16)


@needs_vocabulary
def test_text_that_is_not_utf8_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1") * 100)
    with pytest.raises(InputError, match="latin: byte 0 of the text is not UTF-8"):
        open_data(tmp_path / "latin", "gpt2", 1, 1, 50257)


@pytest.mark.parametrize("path", ["/nonexistent", "/dev/zero", "a\0b"])
def test_paths_that_are_no_files(path: str) -> None:
    with pytest.raises((InputError, StorageError), match=r"regular file|no such file|null"):
        open_data(Path(path), "bytes", 1, 1, 256)


# -- shards and folders of them --------------------------------------------------------------------------


def test_one_shard_is_split(tmp_path: Path) -> None:
    write_shard(tmp_path / "t.bin", np.arange(1000))
    data = open_data(tmp_path / "t.bin", "none is needed", 1, 10, 65536)
    assert (data.train.samples, data.val.samples) == (89, 9)
    assert data.val.batch(0)[0][0, 0] == 900
    assert max(data.train.batch(i)[1].max() for i in range(89)) == 890


def test_a_folder_as_llmc_leaves_it(tmp_path: Path) -> None:
    """Several shards for training, and one to validate on; every rank finds its part."""
    for k, name in enumerate(("x_val_000000", "x_train_000001", "x_train_000002", "other")):
        write_shard(tmp_path / f"{name}.bin", np.arange(200 * k, 200 * (k + 1)))
    for rank in (0, 1):
        data = open_data(tmp_path, "bytes", 1, 10, 65536, rank=rank, world=2)
        seen = sorted(int(data.train.batch(i)[0][0, 0]) for i in range(data.train.samples))
        assert seen == [200 * k + 20 * s + 10 * rank for k in (1, 2) for s in range(9)]
        assert data.val.batch(0)[0][0, 0] == 10 * rank
    chosen = open_data(Path(f"{tmp_path}/x_*_000001.bin"), "bytes", 1, 10, 65536, val=tmp_path / "other.bin")
    assert chosen.train.samples == 19
    assert chosen.val.batch(0)[0][0, 0] == 600
    (tmp_path / "x_val_000000.bin").unlink()
    split = open_data(tmp_path, "bytes", 1, 10, 65536)
    assert split.train.samples == 19 + 17
    assert split.val.batch(0)[0][0, 0] == 580


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token shards"):
        open_data(tmp_path, "bytes", 1, 1, 256)
    (tmp_path / "x_train.bin").write_bytes(GPT2.header(5))
    with pytest.raises(InputError, match=r"x_train\.bin: the header says 5 tokens"):
        open_data(tmp_path, "bytes", 1, 1, 256)
    with pytest.raises(InputError, match=r"none_\*: no such file"):
        open_data(tmp_path / "none_*", "bytes", 1, 1, 256)
