"""From files to shards: the same tokens whatever the way, all of them or nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gptc.corpus import sources as sources_module
from gptc.corpus.prepare import Preparation, Progress, prepare
from gptc.corpus.sources import Source, documents, find_sources, pieces
from gptc.errors import GptcError, InputError, StorageError, ToolMissing
from gptc.runtime.data import open_data
from gptc.runtime.dataset import Dataset, open_folder, parse_dataset
from gptc.runtime.shard import chunks
from gptc.runtime.tokenizer import load_tokenizer
from gptc.runtime.vocabulary import write_vocabulary
from tests.runtime.test_tokenizer import SMALL, needs_vocabulary

LINES = ("The end.", "and the end", "", "  then", "a <|endoftext|> b", "naïve café 😀", "12,345!", "\tx\r")


def text(seed: int, lines: int = 400) -> str:
    rng = random.Random(seed)
    return "\n".join(rng.choice(LINES) for _ in range(lines))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some KB is cut as one of some MB would be."""
    monkeypatch.setattr(sources_module, "PIECE_BYTES", 500)
    monkeypatch.setattr(sources_module, "WINDOW_BYTES", 64)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "small.tiktoken"
    write_vocabulary(path, SMALL)
    return str(path)


def run(sources: Sequence[Source], out: Path, tokenizer: str, val: Sequence[Source] = (), **how: object) -> Dataset:
    options = {"processes": 1} | how
    return prepare(sources, val, Preparation(tokenizer, out, "x", **options), lambda now: None)  # type: ignore[arg-type]


def ids(folder: Path) -> dict[str, list[int]]:
    """Of each split, all shards joined."""
    splits = open_folder(folder)
    return {
        split: [i for shard in shards for part in chunks(shard) for i in part.tolist()]
        for split, shards in (("train", splits.train), ("val", splits.val))
    }


def expected(texts: Sequence[str], tokenizer: str) -> list[int]:
    codec = load_tokenizer(tokenizer)
    assert codec.end_of_text is not None
    return [i for t in texts for i in (codec.end_of_text, *codec.encode(t.encode()).tolist())]


@pytest.mark.usefixtures("small_pieces")
def test_text_files_and_folders(tmp_path: Path, tokenizer: str) -> None:
    """Pieces are encoded one by one, and yet no token differs from that of the whole file."""
    texts = [text(k) for k in range(3)] + [""]
    names = ["b/one.txt", "b/two.md", "b/c/three", "b/empty.txt"]
    for name, content in zip(names, texts, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode())
    (tmp_path / "b/.hidden").write_text("secret")
    (tmp_path / "a.txt").write_text("First.")
    found = find_sources([tmp_path / "a.txt", tmp_path / "b"], "text")
    assert [source.name for source in found] == ["a.txt", "b/c/three", "b/empty.txt", "b/one.txt", "b/two.md"]
    assert sum(len(list(pieces(source))) for source in found) > 15
    dataset = run(found, tmp_path / "out", tokenizer, val_tokens=0)
    assert ids(tmp_path / "out")["train"] == expected(["First.", texts[2], texts[0], texts[1]], tokenizer)
    assert dataset.documents == 4
    assert [source.bytes for source in dataset.sources] == [source.path.stat().st_size for source in found]
    assert parse_dataset((tmp_path / "out/manifest.json").read_bytes(), tmp_path) == dataset


@pytest.mark.usefixtures("small_pieces")
def test_a_cut_between_lines_changes_no_token(tmp_path: Path) -> None:
    """Where a file is cut, the words of every known encoding end."""
    import regex
    from tiktoken_ext import openai_public

    cl100k = (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"""
        r"""\s*[\r\n]|\s+(?!\S)|\s"""
    )
    o200k = r"[^\r\n\p{L}\p{N}]?[\p{Ll}\p{Lu}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    rng = random.Random(0)
    content = "".join(rng.choice("aB1 .,!?'\n\n\n\t/\r-é") for _ in range(80_000))
    path = tmp_path / "t.txt"
    path.write_bytes(content.encode())
    parts = [t.decode() for piece in pieces(Source(path, "t", "text")) for t in documents(piece)]
    assert "".join(parts) == content
    assert len(parts) > 50
    for pattern in (openai_public.r50k_pat_str, cl100k, o200k):
        assert [w for part in parts for w in regex.findall(pattern, part)] == regex.findall(pattern, content)


@pytest.mark.usefixtures("small_pieces")
def test_records(tmp_path: Path, tokenizer: str) -> None:
    """JSONL and parquet give the documents of their records, in order; half a surrogate pair is no character."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [text(k, k % 30) for k in range(60)]
    lines = [json.dumps({"id": k, "body": t}, ensure_ascii=bool(k % 2)) for k, t in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines))
    (tmp_path / "b.jsonl").write_text('{"body": "a\\ud800b"}\r\n')
    parquet.write_table(pyarrow.table({"n": range(60), "body": texts}), tmp_path / "c.parquet", row_group_size=7)
    for name, content in (("a.jsonl", texts), ("b.jsonl", ["a\ufffdb"]), ("c.parquet", texts)):
        found = find_sources([tmp_path / name], "body")
        dataset = run(found, tmp_path / f"out-{name}", tokenizer, val_tokens=0)
        assert ids(tmp_path / f"out-{name}")["train"] == expected(content, tokenizer)
        assert dataset.documents == len(content)
    for name, message in (("a.jsonl", r"a\.jsonl:1: no text under 'text' \(an object with id, body\)"),
                          ("c.parquet", r"c\.parquet: no column 'text' \(it has n, body\)")):  # fmt: skip
        with pytest.raises(InputError, match=rf"(?s){message}.*help: --field names"):
            run(find_sources([tmp_path / name], "text"), tmp_path / "none", tokenizer)
    with pytest.raises(InputError, match=r"the column 'n' is int64, with 0"):
        run(find_sources([tmp_path / "c.parquet"], "n"), tmp_path / "none", tokenizer)
    assert not (tmp_path / "none").exists()


@needs_vocabulary
@pytest.mark.usefixtures("small_pieces")
def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.txt").write_text(text(k, 2000))
    sources = find_sources([tmp_path / f"{k}.txt" for k in range(3)], "text")
    seen: list[Progress] = []
    for processes in (1, 2):
        how = Preparation("gpt2", tmp_path / f"out{processes}", "x", 1000, 500, processes=processes)
        prepare(sources, (), how, seen.append)
    files = [{p.name: p.read_bytes() for p in (tmp_path / f"out{n}").iterdir()} for n in (1, 2)]
    assert files[0] == files[1]
    assert len(files[0]) > 10
    assert [now.bytes for now in seen] == sorted(now.bytes for now in seen[: len(seen) // 2]) * 2
    assert seen[-1].bytes == seen[-1].total_bytes == sum(s.path.stat().st_size for s in sources)


def test_shards_of_a_size_and_the_split(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "t.txt").write_text(text(0))
    (tmp_path / "v.txt").write_text(text(1, 50))
    sources, val = (find_sources([tmp_path / name], "text") for name in ("t.txt", "v.txt"))
    contents = [(tmp_path / name).read_bytes().decode() for name in ("t.txt", "v.txt")]
    all_ids, val_ids = (expected([content], tokenizer) for content in contents)
    n = len(all_ids)
    cases: list[tuple[dict[str, object], Sequence[Source], list[int], list[int]]] = [
        ({}, (), all_ids[n // 10 :], all_ids[: n // 10]),
        ({"val_tokens": 0}, (), all_ids, []),
        ({"val_tokens": 777}, (), all_ids[777:], all_ids[:777]),
        ({}, val, all_ids, val_ids),
        ({"limit": 1000, "val_tokens": 100}, (), all_ids[100:1000], all_ids[:100]),
        ({"limit": 1000}, val, all_ids[:1000], val_ids),
    ]
    for number, (how, check, train_ids, check_ids) in enumerate(cases):
        out = tmp_path / f"out{number}"
        dataset = run(sources, out, tokenizer, check, shard_tokens=300, **how)
        assert ids(out) == {"train": train_ids, "val": check_ids}
        records = (*dataset.val, *dataset.train)
        assert [int(record.file[-10:-4]) for record in records] == list(range(len(records)))
        assert all(record.tokens == 300 for record in (*dataset.val[:-1], *dataset.train[:-1]))
        assert sorted(p.name for p in out.iterdir()) == sorted(["manifest.json", *(r.file for r in records)])
    data = open_data(tmp_path / "out3", tokenizer, 2, 8, SMALL.end_of_text + 1)
    assert data.val.samples == sum((len(val_ids[at : at + 300]) - 1) // 16 for at in range(0, len(val_ids), 300))


def test_a_large_corpus_gives_no_more_than_enough_to_validation(
    tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the share is known the tokens go to the disk."""
    monkeypatch.setattr("gptc.corpus.writer.VAL_MOST", 50)
    (tmp_path / "t.txt").write_text(text(0))
    run(find_sources([tmp_path / "t.txt"], "text"), tmp_path / "out", tokenizer)
    found = ids(tmp_path / "out")
    assert len(found["val"]) == 50
    assert found["val"] + found["train"] == expected([(tmp_path / "t.txt").read_bytes().decode()], tokenizer)


def test_a_shard_is_what_llmc_writes(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "t.txt").write_text("the end")
    run(find_sources([tmp_path / "t.txt"], "text"), tmp_path / "out", tokenizer, val_tokens=0)
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, 6
    body = np.array([264, 257, 32, 101, 110, 100], np.uint16)
    assert (tmp_path / "out/x_train_000000.bin").read_bytes() == header.tobytes() + body.tobytes()


def test_bytes_have_a_newline_between_documents(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.txt").write_bytes(bytes([65 + k]) * 2 + b"\xff")
    run(find_sources([tmp_path / f"{k}.txt" for k in range(3)], "text"), tmp_path / "out", "bytes", val_tokens=0)
    assert bytes(ids(tmp_path / "out")["train"]) == b"AA\xff\nBB\xff\nCC\xff"


# -- nothing half-written ------------------------------------------------------------------------------


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix not in (".txt", ".jsonl", ".parquet"))


def test_sources_that_are_wrong_leave_nothing(tmp_path: Path, tokenizer: str) -> None:
    good = tmp_path / "good.txt"
    good.write_text(text(0))
    cases: dict[str, tuple[bytes, str]] = {
        "latin.txt": (b"caf\xe9", r"latin\.txt: byte 3 of the text is not UTF-8"),
        "list.jsonl": (b'{"text": "a"}\n[1]\n', r"list\.jsonl:2: no text under 'text' \(no object\)"),
        "number.jsonl": (b'\n{"text": 1}\n', r"number\.jsonl:2: no text under 'text' \(an object with text\)"),
        "cut.jsonl": (b'{"text": "a"}\n{"text": ', r"cut\.jsonl:2: not valid JSON"),
        "deep.jsonl": (b"[" * 100_000, r"deep\.jsonl:1: not valid JSON"),
        "latin.jsonl": (b'{"text": "\xe9"}', r"latin\.jsonl:1: not valid JSON"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            run(find_sources([good, tmp_path / name], "text"), tmp_path / "out", tokenizer)
        assert left(tmp_path) == []
    with pytest.raises(InputError, match="0 tokens in all; there is nothing to train on"):
        run([], tmp_path / "out", tokenizer)
    with pytest.raises(InputError, match=r"99999 of them for validation leave none"):
        run(find_sources([good], "text"), tmp_path / "out", tokenizer, val_tokens=99999)
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        find_sources([tmp_path / "none.txt"], "text")
    with pytest.raises(InputError, match="unknown tokenizer"):
        run(find_sources([good], "text"), tmp_path / "out", "words")
    assert left(tmp_path) == []


def test_a_file_with_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    odd = tmp_path / "caf\udce9.txt"
    odd.write_text("text " * 9)
    assert run(find_sources([odd], "text"), tmp_path / "out", "bytes").sources[0].name == "caf\ufffd.txt"
    assert len(ids(tmp_path / "out")["train"]) == 41


def test_parquet_that_is_none_or_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"text": ["word " * 1000] * 100}), path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-9])
    with pytest.raises(InputError, match=r"t\.parquet: not a parquet file"):
        run(find_sources([path], "text"), tmp_path / "out", "bytes")
    data[4:90] = b"\xff" * 86  # the header of the first page
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"t\.parquet: damaged parquet"):
        run(find_sources([path], "text"), tmp_path / "out", "bytes")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ToolMissing, match=r"(?s)needs pyarrow.*help: pip install 'gptc\[data\]'"):
        run(find_sources([path], "text"), tmp_path / "out", "bytes")
    assert left(tmp_path) == []


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("text " * 100)
    sources = find_sources([tmp_path / "t.txt"], "text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "t.txt"):
        with pytest.raises(InputError, match="exists already, and nothing is overwritten"):
            run(sources, out, "bytes")
    assert (tmp_path / "full/mine").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    run(sources, tmp_path / "empty", "bytes")
    run(sources, tmp_path / "new/deep/folder", "bytes")
    with pytest.raises(StorageError, match="cannot make this folder"):
        run(sources, tmp_path / "t.txt/out", "bytes")


def test_a_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every place where something is written or made to last fails once."""
    (tmp_path / "t.txt").write_text(text(0))
    sources = find_sources([tmp_path / "t.txt"], "text")
    import os

    messages: list[str] = []
    for at in range(100):
        calls = 0

        def failing(function: object, at: int = at) -> object:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal calls
                calls += 1
                if calls == at + 1:
                    raise OSError(28, "No space left on device")
                return function(*args, **kwargs)  # type: ignore[operator]

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(os.fsync))
            patch.setattr(Path, "open", failing(Path.open))
            patch.setattr(Path, "rename", failing(Path.rename))
            patch.setattr(Path, "write_text", failing(Path.write_text))
            try:
                run(sources, tmp_path / "out", "bytes", shard_tokens=2000)
                break
            except GptcError as error:
                messages.append(str(error))
        if (tmp_path / "out").exists():  # only the last sync, of the folder above, has failed
            assert at > 20
            open_folder(tmp_path / "out")
            (tmp_path / "out").rename(tmp_path / "out.txt")
        assert left(tmp_path) == []
    assert 10 < at == calls
    assert all("No space left" in message for message in messages)
