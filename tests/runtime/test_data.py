"""Tokenizers, shards, and the order in which batches are served."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from gptc.errors import GptcError, InputError, StorageError, ToolMissing
from gptc.runtime import tokenizer as tokenizer_module
from gptc.runtime.data import DEFAULT_BYTES, SHUFFLE_SEED, Loader, open_data, standard_library
from gptc.runtime.rng import Mt19937
from gptc.runtime.shard import is_shard, read_shard, write_shard
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


def test_shard_bytes(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    write_shard(path, np.array([1, 2, 65535]))
    data = path.read_bytes()
    assert len(data) == 1024 + 6
    assert np.frombuffer(data[:1024], "<i4")[:4].tolist() == [20240520, 1, 3, 0]
    assert data[1024:] == b"\x01\x00\x02\x00\xff\xff"
    assert read_shard(path).tolist() == [1, 2, 65535]
    assert [p.name for p in tmp_path.iterdir()] == ["t.bin"]


@pytest.mark.parametrize("tokens", [[], [-1], [65536]])
def test_tokens_that_are_no_shard(tmp_path: Path, tokens: list[int]) -> None:
    with pytest.raises(InputError, match="a shard holds"):
        write_shard(tmp_path / "t.bin", np.array(tokens, np.int64))
    assert not list(tmp_path.iterdir())


def test_shards_beyond_2_gib(tmp_path: Path) -> None:
    """Offsets are 64 bits wide: the last of 1.5 billion tokens of a sparse file."""
    path, count = tmp_path / "big.bin", 1_500_000_000
    with path.open("wb") as file:
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, count
        file.write(header.tobytes())
        file.truncate(1024 + 2 * count)
        file.seek(1024 + 2 * (count - 1))
        file.write(b"\x07\x00")
    tokens = read_shard(path)
    last = Loader(tokens, 1, 1, None).batch(count - 2)
    assert (last[0].item(), last[1].item()) == (0, 7)


def test_mutated_shards_never_escape(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "t.bin"
    write_shard(path, np.arange(200))
    text = path.read_bytes()
    refused = 0
    for _ in range(1000):
        mutant = bytearray(text)
        kind = rng.randrange(3)
        if kind == 0:
            mutant = mutant[: rng.randrange(len(mutant))]
        elif kind == 1:
            mutant += bytes(rng.randint(1, 9))
        else:
            mutant[rng.randrange(12)] ^= rng.randint(1, 255)
        path.write_bytes(mutant)
        with pytest.raises(GptcError, match=r"t\.bin"):
            read_shard(path)
        refused += 1
    assert refused == 1000


def test_what_is_a_shard(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert not is_shard(tmp_path / "a.txt")
    (tmp_path / "a.bin").write_text("text")
    with pytest.raises(InputError, match="too short for the header"):
        open_data(tmp_path / "a.bin", Bytes(), 1, 1, 256)
    write_shard(tmp_path / "b.bin", np.arange(51))
    (tmp_path / "b.bin").rename(tmp_path / "b")
    assert is_shard(tmp_path / "b")
    with pytest.raises(InputError, match=r"token 50 is 50; the model has 50"):
        open_data(tmp_path / "b", Bytes(), 1, 1, 50)


def test_batches_are_consecutive_and_shifted() -> None:
    loader = Loader(np.arange(100, dtype=np.uint16), 2, 3, None)
    assert loader.samples == 16
    x, y = loader.batch(1)
    assert x.tolist() == [[6, 7, 8], [9, 10, 11]]
    assert (y == x + 1).all()
    assert x.dtype == y.dtype == np.int32
    assert (loader.batch(17)[0] == x).all()


def test_order_of_llmc() -> None:
    """1192 samples of tinyshakespeare at B 4, T 64; then a new permutation from the same stream."""
    tokens = np.arange(1192 * 2 + 1, dtype=np.uint16)
    loader = Loader(tokens, 1, 2, SHUFFLE_SEED)
    first = [int(loader.batch(i)[0][0, 0]) // 2 for i in range(1192)]
    assert first[:10] == [408, 791, 914, 1057, 81, 450, 299, 907, 582, 321]
    rng = Mt19937(SHUFFLE_SEED)
    orders = np.concatenate([rng.permutation(1192) for _ in range(4)])
    fresh = Loader(tokens, 1, 2, SHUFFLE_SEED)
    for i in (4000, 0, 2500, 1192, 1191, 4767):  # any position, in any order
        assert fresh.batch(i)[0][0, 0] == 2 * orders[i]


def test_default_corpus() -> None:
    text = standard_library()
    assert DEFAULT_BYTES <= len(text) < 2 * DEFAULT_BYTES
    assert text == standard_library()
    text.decode("utf-8")
    data = open_data(None, Bytes(), 4, 64, 256)
    assert data.train.samples > 8 * data.val.samples > 8000


@pytest.mark.parametrize("size", [0, 1, 16, 17, 33])
def test_tiny_corpora(tmp_path: Path, size: int) -> None:
    path = tmp_path / "tiny.txt"
    path.write_bytes(b"x" * size)
    with pytest.raises(InputError, match=f"{size} tokens; batches of 2 x 8 need at least 34"):
        open_data(path, Bytes(), 2, 8, 256)


def test_split(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(34)))
    data = open_data(path, Bytes(), 2, 8, 256)
    assert (data.train.samples, data.val.samples) == (1, 1)
    assert data.train.batch(0)[1].max() == 16
    assert data.val.batch(0)[0].min() == 17
    path.write_bytes(b"x" * 10_000)
    data = open_data(path, Bytes(), 2, 8, 256)
    assert (data.train.samples, data.val.samples) == (8999 // 16, 999 // 16)


@needs_vocabulary
def test_text_that_is_not_utf8_names_its_file(tmp_path: Path, gpt2: Gpt2) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1") * 100)
    with pytest.raises(InputError, match="latin: byte 0 of the text is not UTF-8"):
        open_data(tmp_path / "latin", gpt2, 1, 1, 50257)


@pytest.mark.parametrize("path", ["/nonexistent", "/dev/zero", "/tmp", "a\0b"])
def test_paths_that_are_no_files(path: str) -> None:
    with pytest.raises((InputError, StorageError), match=r"regular file|no such file|null"):
        open_data(Path(path), Bytes(), 1, 1, 256)
