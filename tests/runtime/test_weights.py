"""Files of weights, of the hand-written bigram model."""

from __future__ import annotations

import json
import os
import random
import resource
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gptc.errors import InputError, StorageError
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.rng import Mt19937
from gptc.runtime.weights import load_weights, save_weights, trained_length
from tests.runtime.conftest import loaded
from tests.runtime.toy import write_toy


def test_weights_come_back(model: CpuModel, shared_cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model["bias"][:256] = np.arange(256)
    save_weights(model, path, 12)
    other = loaded(model.artefact.folder, shared_cache)
    other["table"][:, :256] = 0
    about = {"model": "toy", "tokenizer": "bytes", "hash": "0" * 16, "step": "12", "dims": '{"B": 2, "T": 8, "V": 256}'}
    assert load_weights(other, path) == about
    assert other.segment("params").tobytes() == model.segment("params").tobytes()
    assert load_file(path)["table"].shape == (256, 256)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_equal_weights_are_equal_bytes(model: CpuModel, tmp_path: Path) -> None:
    """The order of four entries in the library's hash table repeats by chance once in 24 times."""
    found = set()
    for number in range(5):
        save_weights(model, tmp_path / f"{number}", 3)
        found.add((tmp_path / f"{number}").read_bytes())
    assert len(found) == 1


def test_padded_bf16_weights(tmp_path: Path, shared_cache: Cache) -> None:
    """A third parameter behind the two of the toy, with padding on both axes and fewer bits."""
    folder = write_toy(tmp_path / "toy")
    manifest = json.loads((folder / "manifest.json").read_text())
    half = {"name": "half", "segment": "params", "offset": manifest["segments"]["params"], "shape": [8, 4],
            "dtype": "bf16", "valid": [5, 3], "init": {"kind": "normal", "std": 2.0}}  # fmt: skip
    manifest["params"].append(half)
    manifest["segments"]["params"] += 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    model, other = loaded(folder, shared_cache), loaded(folder, shared_cache)
    rng = Mt19937(42)
    rng.normal(256 * 256)
    expected = np.zeros((8, 4), ml_dtypes.bfloat16)
    expected[:5, :3] = rng.normal(15, 2.0).reshape(5, 3)
    np.testing.assert_array_equal(model["half"], expected)
    save_weights(model, tmp_path / "w", 0)
    other["half"][:5, :3] = 0
    load_weights(other, tmp_path / "w")
    np.testing.assert_array_equal(other["half"], expected)
    with safe_open(tmp_path / "w", "numpy") as file:
        assert (file.get_slice("half").get_dtype(), file.get_slice("half").get_shape()) == ("BF16", [5, 3])


def test_weights_of_another_model(model: CpuModel, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    good = {"table": np.zeros((256, 256), np.float32), "bias": np.ones(256, np.float32)}
    before = model.segment("params").tobytes()
    cases = [
        ({"table": np.zeros((256, 255), np.float32)}, r"table is f32\[256,255\]; toy needs f32\[256,256\]"),
        ({"bias": np.zeros(256, np.float64)}, r"bias is f64\[256\]; toy needs f32\[256\]"),
        ({"extra": np.zeros(1, np.float32)}, "extra is no parameter of toy"),
    ]
    for change, message in cases:
        save_file(good | change, path)
        with pytest.raises(InputError, match=message):
            load_weights(model, path)
    save_file({"bias": good["bias"]}, path)
    with pytest.raises(InputError, match="no tensor table, which toy needs"):
        load_weights(model, path)
    save_file(good, path, {"tokenizer": "gpt2"})
    with pytest.raises(InputError, match="trained with the tokenizer 'gpt2'"):
        load_weights(model, path)
    with pytest.raises(InputError, match="no such file"):
        load_weights(model, tmp_path / "none")
    with pytest.raises(InputError, match=r"is a folder\n  help: name the file of weights in it"):
        load_weights(model, tmp_path)
    assert model.segment("params").tobytes() == before


def test_weights_know_how_long_their_sequences_were(model: CpuModel, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(model, path, 1)
    assert trained_length(path) == 8
    for dims in (None, "", "[" * 10_000, "[8]", "8", "{}", '{"T": "8"}', '{"T": -8}', '{"T": true}'):
        save_file({"bias": np.ones(2, np.float32)}, path, None if dims is None else {"dims": dims})
        assert trained_length(path) is None


def test_a_failed_save_keeps_the_old_file(model: CpuModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(model, path, 1)
    old = path.read_bytes()
    model["bias"][...] = 1
    for name in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(StorageError, match="No space left on device"):
                save_weights(model, path, 2)
        assert path.read_bytes() == old
        assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_full_disk_keeps_the_old_file(model: CpuModel, tmp_path: Path) -> None:
    """The real thing: the kernel refuses to let the file grow past 1000 bytes."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=r"w\.safetensors: cannot write: .*File too large"):
            save_weights(model, path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_saving_onto_a_folder_or_nowhere(model: CpuModel, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no/w", Path("/dev/null/w")):
        with pytest.raises(StorageError, match="cannot write"):
            save_weights(model, path, 1)
    assert not list(tmp_path.iterdir())


def test_sums_of_weights_show_every_bit(model: CpuModel) -> None:
    """One flipped bit anywhere changes the sum of its tensor, and no other."""
    tensors, rng = model.artefact.manifest.params, random.Random(3)
    before = model.checksums(tensors)
    for _ in range(200):
        which = rng.randrange(len(before))
        raw = model[tensors[which].name].view(np.uint8).reshape(-1)
        at, bit = rng.randrange(raw.size), rng.randrange(8)
        raw[at] ^= 1 << bit
        changed = [i for i, (a, b) in enumerate(zip(model.checksums(tensors), before, strict=True)) if a != b]
        assert changed == [which]
        raw[at] ^= 1 << bit
    assert model.checksums(tensors) == before
