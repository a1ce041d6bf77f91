"""What training can be given, and how it is split."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gptc.errors import InputError, StorageError
from gptc.runtime.data import DEFAULT_BYTES, open_data, standard_library
from gptc.runtime.shard import GPT2, write_shard

needs_vocabulary = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="set TIKTOKEN_CACHE_DIR to a folder with the vocabulary of gpt2"
)


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
