"""Recipes make of each data set what llm.c's scripts make of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gptc.corpus import recipes
from gptc.corpus.download import Remote
from gptc.corpus.prepare import Preparation, prepare
from gptc.corpus.recipes import check_recipe, prepare_hellaswag, recipe_input
from gptc.corpus.verify import verify
from gptc.errors import InputError
from gptc.runtime.choices import read_questions
from gptc.runtime.dataset import Dataset
from gptc.runtime.tokenizer import load_tokenizer
from tests.corpus.conftest import Server
from tests.corpus.test_prepare import expected, ids, left, tokenizer
from tests.runtime.test_tokenizer import needs_vocabulary

__all__ = ["tokenizer"]
SHAKESPEARE = os.environ.get("GPTC_TINYSHAKESPEARE", "")


def make(name: str, given: list[Path], out: Path, tokenizer: str, cache: Path, **options: object) -> Dataset:
    how = Preparation(tokenizer, out, name, processes=1, **options)  # type: ignore[arg-type]
    if name == "hellaswag":
        return prepare_hellaswag(given, cache, how, lambda *now: None)
    with recipe_input(name, given, cache, how, lambda *now: None) as found:
        val_tokens = found.val_tokens if how.val_tokens is None else how.val_tokens
        how = Preparation(tokenizer, out, name, how.shard_tokens, val_tokens, how.limit, 1)
        return prepare(found.train, found.val, how, lambda now: None)


def test_tinyshakespeare(tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of text stands before every section; a section keeps the empty line that ends it."""
    monkeypatch.setattr(recipes, "SHAKESPEARE_VAL", 9)
    (tmp_path / "input.txt").write_text("First:\nthe\n\nSecond:\nand\n\n\nthe end\n")
    make("tinyshakespeare", [tmp_path / "input.txt"], tmp_path / "out", tokenizer, tmp_path)
    found = ids(tmp_path / "out")
    all_ids = expected(["First:\nthe\n\n", "Second:\nand\n\n", "\nthe end\n"], tokenizer)
    assert found == {"train": all_ids[9:], "val": all_ids[:9]}


@needs_vocabulary
@pytest.mark.skipif(not SHAKESPEARE, reason="set GPTC_TINYSHAKESPEARE to the text (1.1 MB)")
def test_tinyshakespeare_has_the_tokens_of_llmc(tmp_path: Path) -> None:
    dataset = make("tinyshakespeare", [Path(SHAKESPEARE)], tmp_path / "out", "gpt2", tmp_path)
    assert [shard.tokens for shard in (*dataset.val, *dataset.train)] == [32_768, 305_260]
    assert hashlib.sha256(Path(SHAKESPEARE).read_bytes()).hexdigest() == recipes.SHAKESPEARE.sha256


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


def test_tinystories(tmp_path: Path, tokenizer: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stories of a file are shuffled with its number as the seed; those of the first file are for validation."""
    texts = [[f"  {k}: the end of {n}\n" for n in range(5)] for k in range(3)]
    data = [json.dumps([{"story": text, "source": "x"} for text in part]).encode() for part in texts]
    names = ["./data02.json", "folder/data00.json", "../data01.json"]
    body = archive({names[0]: data[2], names[1]: data[0], names[2]: data[1], "README": b"not a story"})
    server.files["/stories.tar.gz"] = body
    known = Remote(f"{server.url}/stories.tar.gz", "stories.tar.gz", hashlib.sha256(body).hexdigest())
    monkeypatch.setattr(recipes, "STORIES", known)
    dataset = make("tinystories", [], tmp_path / "out", tokenizer, tmp_path / "cache")
    for k, seed in ((0, 1337), (1, 1337), (2, 1338)):
        random.Random(seed).shuffle(texts[k])
    val, *train = ([text.strip() for text in part] for part in texts)
    assert ids(tmp_path / "out") == {
        "train": expected([*train[0], *train[1]], tokenizer),
        "val": expected(val, tokenizer),
    }
    assert [source.name for source in dataset.sources] == ["data00.json", "data01.json", "data02.json"]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["stories.tar.gz"]
    for name, content in (("data00.json", data[0]), ("data01.json", data[1])):
        (tmp_path / "cache" / name).write_bytes(content)
    make("tinystories", [tmp_path / "cache"], tmp_path / "again", tokenizer, tmp_path)
    assert ids(tmp_path / "again")["val"] == ids(tmp_path / "out")["val"]


def test_stories_that_are_wrong(tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / "stories.txt"
    good = archive({"a.json": b'[{"story": "a"}]', "b.json": b'[{"story": "b"}]'})
    cases = {
        b"": "not an archive",
        good[: len(good) // 2]: "not an archive",
        archive({}): r"no files \*\.json",
        archive({"a.json": b"[]"}): "one file of stories",
        archive({"a.json": b"[]", "b.json": b"{}"}): "0 tokens in all",
        archive({"a.json": b'[{"story": 1}]', "b.json": b"[]"}): r"a\.json: not a JSON list of objects with 'story'",
        archive({"a.json": b"[1]", "b.json": b"[]"}): r"a\.json: not a JSON list",
        archive({"a.json": b"[" * 99999, "b.json": b"[]"}): r"a\.json: not a JSON list",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            make("tinystories", [path], tmp_path / "out", tokenizer, tmp_path)
        assert left(tmp_path) == []
    with pytest.raises(InputError, match="--from names 2 files; the recipe tinystories takes one"):
        make("tinystories", [path, path], tmp_path / "out", tokenizer, tmp_path)


def test_fineweb_edu(tmp_path: Path, tokenizer: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are fetched when they are needed: here the third never is."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = [[f"Page {n} of {k}: the end and the rest." for n in range(20)] for k in range(3)]
    entries = []
    for k, part in enumerate(texts):
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table({"text": part}), buffer)
        name = f"sample/10BT/00{k}_00000.parquet"
        server.files[f"/datasets/HuggingFaceFW/fineweb-edu/resolve/main/{name}"] = buffer.getvalue()
        oid = hashlib.sha256(buffer.getvalue()).hexdigest()
        entries.append({"type": "file", "path": name, "lfs": {"oid": oid}})
    server.files["/api/datasets/HuggingFaceFW/fineweb-edu/tree/main/sample/10BT"] = json.dumps(entries).encode()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    all_ids = expected([*texts[0], *texts[1]], tokenizer)
    half = len(all_ids) - 100
    dataset = make("fineweb-edu", [], tmp_path / "out", tokenizer, tmp_path / "cache", shard_tokens=200, limit=half)
    assert ids(tmp_path / "out") == {"train": all_ids[200:half], "val": all_ids[:200]}
    assert [record.file for record in dataset.val] == ["fineweb-edu_val_000000.bin"]
    fetched = sorted(p.name for p in (tmp_path / "cache").iterdir())
    assert fetched == ["000_00000.parquet", "001_00000.parquet"]
    given = [tmp_path / "cache" / name for name in fetched]
    make("fineweb-edu", given, tmp_path / "again", tokenizer, tmp_path, shard_tokens=200, limit=half)
    assert ids(tmp_path / "again") == ids(tmp_path / "out")


QUESTION = {"ctx": "the end", "endings": ["a", "bc", "and so", "the"], "label": 2, "ind": 24}


def test_hellaswag(tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{json.dumps(QUESTION)}\n{json.dumps({**QUESTION, 'ctx': 'é', 'label': 0})}\n\n")
    dataset = make("hellaswag", [path], tmp_path / "out", tokenizer, tmp_path)
    codec = load_tokenizer(tokenizer)
    found = read_questions(tmp_path / "out/hellaswag_val.bin")
    assert [q.label for q in found] == [2, 0]
    assert found[0].context.tolist() == codec.encode(b"the end").tolist()
    assert [e.tolist() for e in found[1].endings] == [codec.encode(f" {e}".encode()).tolist() for e in
                                                      ("a", "bc", "and so", "the")]  # fmt: skip
    assert dataset.evaluation[0].examples == 2
    assert [item.kind for item in verify([tmp_path / "out"], None, lambda file: None)] == ["questions"]
    words = np.frombuffer((tmp_path / "out/hellaswag_val.bin").read_bytes(), "<i4", 5)
    assert words.tolist()[:3] == [20240522, 1, 2]


def test_questions_that_are_wrong(tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / "questions.jsonl"
    wrong: list[dict[str, object]] = [
        {"ctx": 1}, {"endings": None}, {"endings": ["a", 1, "c", "d"]}, {"label": "2"}, {"label": True},
        {"ctx": "\ud800"},
    ]  # fmt: skip
    for change in wrong:
        path.write_text(f"{json.dumps(QUESTION)}\n{json.dumps(QUESTION | change)}\n")
        with pytest.raises(InputError, match=r"questions\.jsonl:2: not a question of HellaSwag"):
            make("hellaswag", [path], tmp_path / "out", tokenizer, tmp_path)
    for line, message in (("{}", "questions.jsonl:1: not a question"), ("", "0 questions"),
                          (json.dumps(QUESTION | {"ctx": ""}), "question 0 needs a context"),
                          (json.dumps(QUESTION | {"label": 4}), "question 0 needs a context"),
                          (json.dumps(QUESTION | {"endings": ["a"]}), "question 0 needs a context, 4 endings"),
                          (json.dumps(QUESTION | {"ctx": "x" * 40000}), "question 0 has 800")):  # fmt: skip
        path.write_text(line)
        with pytest.raises(InputError, match=message):
            make("hellaswag", [path], tmp_path / "out", tokenizer, tmp_path)
    assert left(tmp_path) == []


def test_unknown_recipes() -> None:
    with pytest.raises(InputError, match=r"(?s)unknown recipe 'tinystory'.*did you mean 'tinystories'"):
        check_recipe("tinystory")
