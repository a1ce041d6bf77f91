"""The manifest of a data folder: what it says is checked before it is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptc.errors import InputError
from gptc.runtime.data import open_data
from gptc.runtime.dataset import MANIFEST, Dataset, open_folder, parse_dataset
from gptc.runtime.hashing import content_hash, file_hash
from gptc.runtime.shard import write_shard

GOOD: dict[str, Any] = {
    "format": 1,
    "gptc": "0.1.0",
    "name": "x",
    "tokenizer": {"name": "bytes", "size": 256, "end_of_text": None, "sha256": "0" * 64},
    "documents": 3,
    "sources": [{"name": "a/b.txt", "bytes": 7}],
    "train": [{"file": "x_train_000001.bin", "tokens": 100, "max_id": 99, "sha256": "1" * 64}],
    "val": [{"file": "x_val_000000.bin", "tokens": 50, "max_id": 49, "sha256": "2" * 64}],
}


def sealed(content: dict[str, Any]) -> bytes:
    return json.dumps({**content, "checksum": content_hash(content)}).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        (record,) = GOOD[split]
        write_shard(tmp_path / record["file"], np.arange(record["tokens"]))
    (tmp_path / MANIFEST).write_bytes(sealed(GOOD))
    return tmp_path


def test_text_and_back() -> None:
    dataset = parse_dataset(sealed(GOOD), Path("m"))
    assert isinstance(dataset, Dataset)
    assert parse_dataset(dataset.text().encode(), Path("m")) == dataset
    assert parse_dataset(dataset.text().encode(), Path("m")).text() == dataset.text()


def test_a_folder_with_a_manifest(folder: Path) -> None:
    write_shard(folder / "x_train_000002.bin", np.arange(999))  # not one of those that are named
    splits = open_folder(folder)
    assert [(s.path.name, s.count) for s in (*splits.train, *splits.val)] == [
        ("x_train_000001.bin", 100),
        ("x_val_000000.bin", 50),
    ]
    data = open_data(folder, "bytes", 2, 8, 256)
    assert (data.train.samples, data.val.samples) == (6, 3)
    with pytest.raises(InputError, match="made with the tokenizer bytes, ids reach 99; the model has gpt2 and 50257"):
        open_data(folder, "gpt2", 2, 8, 50257)
    with pytest.raises(InputError, match="made with the tokenizer bytes, ids reach 99; the model has bytes and 99"):
        open_data(folder, "bytes", 2, 8, 99)


def test_files_that_are_not_as_it_says(folder: Path) -> None:
    train = folder / "x_train_000001.bin"
    write_shard(train, np.arange(101))
    with pytest.raises(InputError, match=r"x_train_000001\.bin: 101 tokens; .*manifest\.json says 100"):
        open_data(folder, "bytes", 2, 8, 256)
    train.unlink()
    with pytest.raises(InputError, match=r"x_train_000001\.bin: no such file, but .*manifest\.json names it"):
        open_data(folder, "bytes", 2, 8, 256)


def test_a_flipped_bit_is_found_when_the_shard_is_opened(folder: Path) -> None:
    """One that leaves every id a possible one; the whole file counts, also where a part of it is for validation."""
    train = folder / "x_train_000001.bin"
    good = {**GOOD, "train": [{**GOOD["train"][0], "sha256": file_hash(train)}], "val": []}
    (folder / MANIFEST).write_bytes(sealed(good))
    open_data(folder, "bytes", 2, 8, 256).val.batch(0)
    text = bytearray(train.read_bytes())
    text[1030] ^= 2
    train.write_bytes(text)
    data = open_data(folder, "bytes", 2, 8, 256)
    for loader in (data.train, data.val):
        with pytest.raises(
            InputError, match=r"x_train_000001\.bin: damaged: sha256 \w{64}; the folder's manifest says"
        ):
            loader.batch(0)


def changed(path: str, value: object) -> dict[str, Any]:
    """GOOD with one value replaced, or dropped (...)."""
    content = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    place = content
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "format 2; this gptc reads 1"),
        ("tokenizer", ..., "tokenizer: Field required"),
        ("tokenizer.size", 0, r"tokenizer\.size"),
        ("tokenizer.size", "256", r"tokenizer\.size"),
        ("tokenizer.end_of_text", 256, "an id is not below the tokenizer's 256"),
        ("train.0.max_id", 256, "an id is not below the tokenizer's 256"),
        ("train.0.file", "../x.bin", r"train\.0\.file"),
        ("train.0.file", "/etc/passwd", r"train\.0\.file"),
        ("train.0.file", ".hidden", r"train\.0\.file"),
        ("train.0.file", "a\n", r"train\.0\.file"),
        ("train.0.file", "x_val_000000.bin", "x_val_000000.bin appears twice"),
        ("train.0.file", "manifest.json", "manifest.json appears twice"),
        ("train.0.tokens", 0, r"train\.0\.tokens"),
        ("train.0.tokens", 1 << 31, r"train\.0\.tokens"),
        ("train.0.sha256", "0", r"train\.0\.sha256"),
        ("documents", -1, "documents"),
        ("documents", 1.5, "documents"),
        ("sources", None, "sources"),
    ],
)
def test_manifests_that_are_wrong(path: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=f"m.json: .*{message}") as caught:
        parse_dataset(sealed(changed(path, value)), Path("m.json"))
    assert "gptc data prepare" in str(caught.value)


def test_files_that_are_no_manifests(folder: Path) -> None:
    cases = {
        b"": "not valid JSON",
        b"[" * 100_000: "not valid JSON",
        b"[]": "format no object",
        b"{}": "changed since it was written",
        b'{"n": ' + b"9" * 5000 + b"}": "not valid JSON",
        sealed(GOOD)[:-1]: "not valid JSON",
        sealed(GOOD).replace(b'"documents": 3', b'"documents": 4'): "changed since it was written",
        sealed({**GOOD, "train": [], "val": []}): "no files",
    }
    for data, message in cases.items():
        (folder / MANIFEST).write_bytes(data)
        with pytest.raises(InputError, match=rf"manifest\.json: .*{message}"):
            open_folder(folder)
