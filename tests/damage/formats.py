"""Every kind of file that gptc reads: a small sound one, and what reads it and proves that what it read is sound.

Model files are in tests/model/test_fuzz.py, where mutants know their grammar.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gptc.cli import peak
from gptc.corpus.recipes import unpacked
from gptc.corpus.sources import Source, documents, pieces
from gptc.errors import InputError
from gptc.ir.text import parse_graphs, print_graph
from gptc.runtime import checkpoint as checkpoint_format
from gptc.runtime.checkpoint import state_file
from gptc.runtime.choices import Question, read_questions, write_questions
from gptc.runtime.cpu import CpuModel
from gptc.runtime.dataset import CHECKSUM, parse_dataset
from gptc.runtime.events import Began, Ended, Evaluation, Step
from gptc.runtime.hashing import content_hash
from gptc.runtime.history import verified
from gptc.runtime.interop import hub, huggingface, llama, llmc
from gptc.runtime.interop.gpt2 import read_weights
from gptc.runtime.loader import Loader
from gptc.runtime.log import Log, read_log
from gptc.runtime.manifest import parse_manifest
from gptc.runtime.shard import GPT2, LLAMA3, chunks, open_shard, write_shard
from gptc.runtime.shard import Format as ShardFormat
from gptc.runtime.tokenizer import byte_pairs
from gptc.runtime.tuning import load_tuning, save_tuning
from gptc.runtime.vocabulary import read_vocabulary, write_vocabulary
from gptc.runtime.weights import load_weights, save_weights
from tests.damage.mutate import mutant, mutant_json, resealed
from tests.ir.planned import by_hand, fused_step
from tests.runtime.checkpointing import write as write_checkpoint
from tests.runtime.test_dataset import GOOD, sealed
from tests.runtime.test_interop import ROWS, SIZES, a_model, model_file, random_tensors
from tests.runtime.test_interop import state_file as llmc_state_file
from tests.runtime.test_tokenizer import SMALL

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Format:
    """A sound file and its reader, which raises GptcError with one of `codes` for one that is not sound."""

    path: Path
    read: Read
    mutant: Callable[[bytes, random.Random], bytes] = mutant
    codes: tuple[int, ...] = (1,)


Make = Callable[[Path, CpuModel], Format]
DAMAGED = (1, 5)
"""What gptc itself has written and keeps is damaged storage; in what names a wrong format, the input is wrong."""


# -- data ----------------------------------------------------------------------------------------------


def shard(folder: Path, form: ShardFormat) -> Format:
    write_shard(folder / "t.bin", np.arange(300) * 7 % 251, form)

    def read(path: Path) -> object:
        found = open_shard(path)
        assert sum(map(len, chunks(found))) == found.count
        x, y = Loader([found], 2, 8, 256, 42).batch(5)
        assert 0 <= min(x.min(), y.min()) <= max(x.max(), y.max()) < 256
        return found

    return Format(folder / "t.bin", read)


def questions(folder: Path, model: CpuModel) -> Format:
    rng = np.random.default_rng(0)
    parts = [[rng.integers(1, 50, rng.integers(1, 6)).astype(np.uint16) for _ in range(5)] for _ in range(9)]
    write_questions(folder / "q.bin", [Question(p[0], tuple(p[1:]), k % 4) for k, p in enumerate(parts)])

    def read(path: Path) -> object:
        found = read_questions(path)
        write_questions(folder / "again", found)
        assert (folder / "again").read_bytes()[1024:] == path.read_bytes()[1024:]
        return found

    return Format(folder / "q.bin", read)


def vocabulary(folder: Path, name: str) -> Format:
    write_vocabulary(folder / name, SMALL)

    def read(path: Path) -> object:
        found = read_vocabulary(path)
        codec = byte_pairs(path.name, found)
        assert codec.decode(codec.encode(b"and the end \xc3\xa9").tolist()) == b"and the end \xc3\xa9"
        write_vocabulary(folder / "again.bin", found)
        assert read_vocabulary(folder / "again.bin") == found
        return found

    return Format(folder / name, read)


def dataset(folder: Path, model: CpuModel) -> Format:
    (folder / "manifest.json").write_bytes(sealed(GOOD))

    def seal(content: dict[str, Any]) -> bytes:
        content.pop(CHECKSUM, None)
        return json.dumps({**content, CHECKSUM: content_hash(content)}).encode()

    def read(path: Path) -> object:
        data = path.read_bytes()
        found = parse_dataset(resealed(data, seal) if _odd(data) else data, path)
        return parse_dataset(found.text().encode(), path)

    return Format(folder / "manifest.json", read, mutant_json)


def source(folder: Path, name: str, kind: str, data: bytes) -> Format:
    (folder / name).write_bytes(data)

    def read(path: Path) -> object:
        texts = [t for piece in pieces(Source(path, path.name, kind)) for t in documents(piece)]
        return [text.decode() for text in texts]

    return Format(folder / name, read)


def parquet(folder: Path, model: CpuModel) -> Format:
    pyarrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    writer.write_table(pyarrow.table({"text": [f"text {k}" for k in range(50)]}), buffer, row_group_size=20)
    return source(folder, "t.parquet", "parquet", buffer.getvalue())


def archive(folder: Path, model: CpuModel) -> Format:
    with tarfile.open(folder / "t.tar.gz", "w:gz") as tar:
        for name in ("a.json", "b.json"):
            member = tarfile.TarInfo(name)
            member.size = 16
            tar.addfile(member, io.BytesIO(b'[{"text": "abc"}'))

    def read(path: Path) -> object:
        with unpacked(path) as files:
            return [file.read_bytes() for file in files]

    return Format(folder / "t.tar.gz", read)


# -- weights of others ---------------------------------------------------------------------------------


def llmc_model(folder: Path, version: int) -> Format:
    model_file(folder / "m.bin", random_tensors(), version)

    def read(path: Path) -> object:
        found = llmc.read_model(path)
        assert path.stat().st_size == llmc.HEADER_BYTES + llmc.DTYPES[version].itemsize * llmc.parameter_count(
            found.sizes, llmc.rows_of(path)
        )
        return found

    return Format(folder / "m.bin", read)


def llmc_state(folder: Path, model: CpuModel) -> Format:
    llmc_state_file(folder / "s.bin", True, False)
    return Format(folder / "s.bin", lambda path: llmc.read_state(path, llmc.parameter_count(SIZES, ROWS)))


def hugging_face(folder: Path, name: str) -> Format:
    """A model in one file, or, where the index is what is damaged, in two."""
    huggingface.write_model(folder, a_model())
    if name == hub.INDEX:
        stored = load_file(folder / hub.MODEL)
        (folder / hub.MODEL).unlink()
        places = {tensor: f"part-{i % 2}.safetensors" for i, tensor in enumerate(sorted(stored))}
        for part in set(places.values()):
            save_file({n: v for n, v in stored.items() if places[n] == part}, folder / part)
        (folder / name).write_text(json.dumps({"weight_map": places}))
    change = mutant if name.endswith(".safetensors") else mutant_json
    return Format(folder / name, lambda path: huggingface.read_model(path.parent), change)


def llama_config(folder: Path, model: CpuModel) -> Format:
    about = llama.Llama(61, 16, 1, 4, 2, 32, 8, 48, 500.0, 1e-5, tie_word_embeddings=True)
    llama.write_model(folder, about, {name: np.zeros(shape, np.float32) for name, shape in about.shapes().items()})
    return Format(folder / hub.CONFIG, lambda path: llama.read_model(path.parent), mutant_json)


def weights(folder: Path, model: CpuModel) -> Format:
    """What `--weights` takes: refused before the model has changed, or loaded; and what `gptc export` takes."""
    path = folder / "weights.safetensors"
    save_weights(model, path, 1)

    def read(path: Path) -> object:
        before = model.segment("params").tobytes()
        with suppress(InputError):
            read_weights(path)
        try:
            return load_weights(model, path)
        except InputError:
            assert model.segment("params").tobytes() == before
            raise

    return Format(path, read)


# -- what gptc keeps -----------------------------------------------------------------------------------


def checkpoint(folder: Path, model: CpuModel, name: str) -> Format:
    """A file of a checkpoint; of half of the mutants the hashes are right."""
    root = write_checkpoint(model, folder / "step")
    manifest = (root / "manifest.json").read_bytes()

    def seal(body: dict[str, Any]) -> bytes:
        body.pop("sha256", None)
        for file in body["files"] if name != "manifest.json" else ():
            data = (root / file).read_bytes()
            body["files"][file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return checkpoint_format._spell(body)

    def read(path: Path) -> object:
        data = path.read_bytes()
        if _odd(data):
            seal_again = resealed(data if path.name == "manifest.json" else manifest, seal)
            (root / "manifest.json").unlink()
            (root / "manifest.json").write_bytes(seal_again)
        try:
            found = verified(root)
            found.load(model)
        finally:
            if _odd(data) and path.name != "manifest.json":
                (root / "manifest.json").unlink()
                (root / "manifest.json").write_bytes(manifest)
        return found

    return Format(root / name, read, mutant_json if name == "manifest.json" else mutant, DAMAGED)


def artefact(folder: Path, model: CpuModel) -> Format:
    (folder / "manifest.json").write_bytes((model.artefact.folder / "manifest.json").read_bytes())
    return Format(
        folder / "manifest.json", lambda path: parse_manifest(path.read_bytes(), path), mutant_json, DAMAGED
    )  # fmt: skip


def metrics(folder: Path, model: CpuModel) -> Format:
    log = Log(folder)
    log.begin(0)
    began = Began(0, "tiny", (("lr", "0.01", "tiny.yaml:3"),), 5.5e6, None)
    for event in (began, Step(1, 5.0, 1.25, 6e-4, 0.125, 8192.0), Evaluation(1, 4.0), Ended(2, 1.0, 1)):
        log.write(event)
    return Format(folder / "metrics.jsonl", read_log_of, codes=DAMAGED)


def read_log_of(path: Path) -> object:
    return read_log(path.parent)


def graph(folder: Path, model: CpuModel) -> Format:
    (folder / "t.gir").write_text(print_graph(by_hand(fused_step(), error=0, scaled=0, dw=768)))

    def read(path: Path) -> object:
        return parse_graphs(path.read_bytes().decode(errors="replace"), str(path))

    return Format(folder / "t.gir", read)


def tuning(folder: Path, model: CpuModel) -> Format:
    """Never refused, because the defaults serve: here a file that is passed over is."""
    path = save_tuning(folder, "AVX2", {"a": {"MR": 6, "NR": 32}, "b": {"MR": 4}})

    def read(path: Path) -> object:
        found = load_tuning(folder, "AVX2")
        if not found.choices:
            raise InputError.of(f"{path}: passed over")
        assert all(type(v) is int for point in found.choices.values() for v in point.values())
        return found

    return Format(path, read, mutant_json)


def peaks(folder: Path, model: CpuModel) -> Format:
    """Never refused either: then the peak is measured again."""
    (folder / "peak.json").write_text(json.dumps({"flops": 5e11, "quiet": True}))

    def read(path: Path) -> object:
        found = peak._read(path)
        if not found.flops:
            raise InputError.of(f"{path}: passed over")
        assert found.flops > 0
        return found

    return Format(folder / "peak.json", read, mutant_json)


def _odd(data: bytes) -> bool:
    """Of half of all mutants."""
    return bool(zlib.crc32(data) & 1)


LINES = b'{"text": "a\\u00e9"}\n{"text": "b", "n": [1, {"x": null}]}\n' * 5
STORIES = b'[{"text": " a "}, {"text": "b", "n": 1.5}]'
FORMATS: dict[str, Make] = {
    "shard": lambda folder, model: shard(folder, GPT2),
    "wide shard": lambda folder, model: shard(folder, LLAMA3),
    "questions": questions,
    "tokenizer.bin": lambda folder, model: vocabulary(folder, "t.bin"),
    "rank file": lambda folder, model: vocabulary(folder, "t.tiktoken"),
    "data manifest": dataset,
    "JSONL": lambda folder, model: source(folder, "t.jsonl", "lines", LINES),
    "stories": lambda folder, model: source(folder, "t.json", "stories", STORIES),
    "parquet": parquet,
    "archive": archive,
    "llm.c model f32": lambda folder, model: llmc_model(folder, 3),
    "llm.c model bf16": lambda folder, model: llmc_model(folder, 5),
    "llm.c state": llmc_state,
    "Llama config.json": llama_config,
    "config.json": lambda folder, model: hugging_face(folder, hub.CONFIG),
    "model.safetensors": lambda folder, model: hugging_face(folder, hub.MODEL),
    "safetensors index": lambda folder, model: hugging_face(folder, hub.INDEX),
    "weights": weights,
    "checkpoint manifest": lambda folder, model: checkpoint(folder, model, "manifest.json"),
    "checkpoint weights": lambda folder, model: checkpoint(folder, model, "weights.safetensors"),
    "checkpoint state": lambda folder, model: checkpoint(folder, model, state_file(0, 1)),
    "artefact manifest": artefact,
    "metrics.jsonl": metrics,
    "graph text": graph,
    "tuning": tuning,
    "peaks": peaks,
}
