"""Token shards, byte for byte, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptc.errors import InputError, StorageError
from gptc.runtime.shard import GPT2, LLAMA3, Format, chunks, format_for, is_shard, open_shard, write_shard

Array = np.ndarray[tuple[int], np.dtype[np.integer]]


def read(path: Path) -> list[int]:
    return np.concatenate(list(chunks(open_shard(path)))).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("form", "words", "payload"),
    [(GPT2, [20240520, 1, 3, 0], "0100 0200 ffff"), (LLAMA3, [20240801, 7, 3, 0], "01000000 02000000 ffff0000")],
    ids=["GPT-2", "LLaMA-3"],
)
def test_bytes(tmp_path: Path, form: Format, words: list[int], payload: str) -> None:
    path = tmp_path / "t.bin"
    write_shard(path, np.array([1, 2, 65535]), form)
    data = path.read_bytes()
    assert len(data) == 1024 + 3 * form.dtype.itemsize
    assert np.frombuffer(data[:1024], "<i4").tolist() == words + [0] * 252
    assert data[1024:] == bytes.fromhex(payload)
    assert read(path) == [1, 2, 65535]
    assert [p.name for p in tmp_path.iterdir()] == ["t.bin"]
    shard = open_shard(path)
    write_shard(tmp_path / "again.bin", shard.open()(0, 3), shard.format)
    assert (tmp_path / "again.bin").read_bytes() == data


def test_the_narrowest_format() -> None:
    assert [format_for(n).name for n in (256, 50257, 65536, 65537, 128_256)] == ["GPT-2"] * 3 + ["LLaMA-3"] * 2


@pytest.mark.parametrize("ids", [[], [-1], [65536]])
def test_ids_that_are_no_shard(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(InputError, match="a shard holds"):
        write_shard(tmp_path / "t.bin", np.array(ids, np.int64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [GPT2, LLAMA3], ids=lambda f: f.name)
def test_beyond_2_gib(tmp_path: Path, form: Format) -> None:
    """Offsets are 64 bits wide: the last of 1.5 billion tokens of a sparse file."""
    path, count, size = tmp_path / "big.bin", 1_500_000_000, form.dtype.itemsize
    with path.open("wb") as file:
        file.write(form.header(count))
        file.truncate(1024 + size * count)
        file.seek(1024 + size * (count - 1))
        file.write(b"\x07")
        file.truncate(1024 + size * count)
    assert open_shard(path).part(count - 5, count).open()(3, 2).tolist() == [0, 7]


def test_what_is_a_shard(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert not is_shard(tmp_path / "a.txt")
    write_shard(tmp_path / "b", np.arange(51))
    assert is_shard(tmp_path / "b")


def test_files_that_are_no_shards(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    write_shard(path, np.arange(10))
    good = path.read_bytes()
    wrong = {
        b"": "0 bytes, too short for the header of a token shard",
        good[:1023]: "1023 bytes, too short",
        good[:-1]: "the header says 10 tokens, so 1044 bytes; the file has 1043",
        good + b"\0": "so 1044 bytes; the file has 1045",
        good[:8] + b"\xff\xff\xff\xff" + good[12:]: "the header says -1 tokens",
        good[:1024][:8] + bytes(1016): "the header says 0 tokens",
        b"\1" + good[1:]: r"no token shard \(magic 20240385, version 1; expected 20240520, 1 \(GPT-2\) or 20240801, 7",
        good[:4] + b"\7" + good[5:]: "magic 20240520, version 7",
        good[::-1]: "no token shard",
    }
    for data, message in wrong.items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"t.bin: .*{message}"):
            open_shard(path)
    with pytest.raises(StorageError, match="cannot read"):
        open_shard(tmp_path)
