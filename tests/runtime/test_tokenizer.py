"""Tokenizers, and the files that hold their vocabularies."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from gptc.errors import InputError, ToolMissing
from gptc.runtime import tokenizer as tokenizer_module
from gptc.runtime.tokenizer import Bytes, Tokenizer, byte_pairs, identity, load_tokenizer, vocabulary_of
from gptc.runtime.vocabulary import Vocabulary, read_vocabulary, write_vocabulary

needs_vocabulary = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="set TIKTOKEN_CACHE_DIR to a folder with the vocabulary of gpt2"
)
TEXTS = ("", "Hello", "naïve café\r\n\t😀😀", "0123456789" * 50, "x<|endoftext|>", "a" * 5000, "\0\x7f", "  \n\n  a ")
PAIRS = (b"th", b"the", b" t", b" the", b"an", b"and", b"\n\n", "é".encode())
SMALL = Vocabulary((*(bytes([i]) for i in range(256)), *PAIRS, b"<|endoftext|>"), 256 + len(PAIRS))


@pytest.fixture(scope="session")
def gpt2() -> Tokenizer:
    return load_tokenizer("gpt2")


def test_bytes() -> None:
    every = bytes(range(256))
    assert Bytes().encode(every).tolist() == list(range(256))
    assert Bytes().decode(Bytes().encode(every).tolist()) == every
    assert Bytes().tokens[65] == b"A"


@needs_vocabulary
def test_gpt2(gpt2: Tokenizer) -> None:
    import tiktoken

    for text, ids in (("Hello", 15496), (" hello", 23748), (" dog", 3290), (" my", 616)):
        assert gpt2.encode(text.encode()).tolist() == [ids]
    assert gpt2.decode([50256]) == b"<|endoftext|>"
    assert (gpt2.vocab_size, gpt2.end_of_text) == (50257, 50256)
    for text in TEXTS:
        ids = gpt2.encode(text.encode())
        assert ids.dtype == np.uint16
        assert ids.tolist() == tiktoken.get_encoding("gpt2").encode_ordinary(text)
        assert gpt2.decode(ids.tolist()) == text.encode()
    with pytest.raises(InputError, match="byte 1 of the text is not UTF-8"):
        gpt2.encode(b"a\xff")


@needs_vocabulary
@pytest.mark.parametrize("i", [-1, 50257, 1 << 70])
def test_ids_out_of_range(gpt2: Tokenizer, i: int) -> None:
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
    for name in ("gpt2", "cl100k_base"):
        with pytest.raises(ToolMissing, match=TWO_WAYS.format("no route to")):
            load_tokenizer(name)


def test_a_silent_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken.load

    monkeypatch.setattr(tiktoken.load, "read_file", lambda path: time.sleep(1))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setattr(tokenizer_module, "DOWNLOAD_SECONDS", 0.1)
    with pytest.raises(ToolMissing, match=TWO_WAYS.format(r"no answer in 0\.1 s")):
        load_tokenizer("gpt2")


# -- files of vocabularies -----------------------------------------------------------------------------


@needs_vocabulary
def test_files_of_gpt2_are_those_of_others(gpt2: Tokenizer, tmp_path: Path) -> None:
    """The rank file is, byte for byte, the one that OpenAI publishes (its hash stands in tiktoken); tokenizer.bin is
    what llm.c's script writes from tiktoken."""
    import tiktoken

    encoding = tiktoken.get_encoding("gpt2")
    ranks, binary = tmp_path / "r50k_base.tiktoken", tmp_path / "gpt2_tokenizer.bin"
    for path in (ranks, binary):
        write_vocabulary(path, vocabulary_of(gpt2))
        again = load_tokenizer(str(path))
        assert again.name == path.name
        for text in TEXTS:
            assert (again.encode(text.encode()) == gpt2.encode(text.encode())).all()
        assert (again.vocab_size, again.end_of_text, identity(again)) == (50257, 50256, identity(gpt2))
        write_vocabulary(path.with_name(f"again-{path.name}"), vocabulary_of(again))
        assert path.with_name(f"again-{path.name}").read_bytes() == path.read_bytes()
    published = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    assert hashlib.sha256(ranks.read_bytes()).hexdigest() == published
    header = np.zeros(256, "<i4")
    header[:4] = 20240328, 2, encoding.max_token_value + 1, encoding.eot_token
    tokens = (encoding.decode_bytes([i]) for i in range(50257))
    assert binary.read_bytes() == header.tobytes() + b"".join(bytes([len(t)]) + t for t in tokens)
    old = tmp_path / "version1.bin"
    header[1:4] = 1, 50257, 0
    old.write_bytes(header.tobytes() + binary.read_bytes()[1024:])
    assert load_tokenizer(str(old)).end_of_text == 50256


def test_a_small_vocabulary(tmp_path: Path) -> None:
    for name in ("small.bin", "small.tiktoken"):
        write_vocabulary(tmp_path / name, SMALL)
        assert read_vocabulary(tmp_path / name) == SMALL
        small = load_tokenizer(str(tmp_path / name))
        assert small.encode(b"and the \xc3\xa9nd").tolist() == [261, 259, 32, 263, 110, 100]
        for text in TEXTS:
            assert small.decode(small.encode(text.encode()).tolist()) == text.encode()
            assert small.end_of_text not in small.encode(text.encode())
    assert (tmp_path / "small.bin").read_bytes()[1024:1032] == b"\1\0\1\1\1\2\1\3"
    assert (tmp_path / "small.tiktoken").read_bytes().splitlines()[-1] == b"w6k= 263"
    with pytest.raises(InputError, match=r"small\.txt: the suffix is not \.bin or \.tiktoken"):
        write_vocabulary(tmp_path / "small.txt", SMALL)


def test_an_end_of_text_in_the_middle(tmp_path: Path) -> None:
    moved = Vocabulary((*SMALL.tokens[:256], b"<|end|>", *PAIRS), 256)
    write_vocabulary(tmp_path / "moved.bin", moved)
    assert load_tokenizer(str(tmp_path / "moved.bin")).encode(b"the").tolist() == [258]
    with pytest.raises(InputError, match="the end of text is token 256; in a rank file it follows the last"):
        write_vocabulary(tmp_path / "moved.tiktoken", moved)


def test_tokenizers_that_no_file_can_hold() -> None:
    import tiktoken

    with pytest.raises(InputError, match="the tokenizer bytes has no end of text"):
        vocabulary_of(Bytes())
    holes = byte_pairs("holes", Vocabulary((*SMALL.tokens[:-1], b"", SMALL.tokens[-1]), 265))
    holes._encoding = tiktoken.Encoding(
        "holes", pat_str=".", mergeable_ranks=SMALL.ranks, special_tokens={"<|endoftext|>": 265}
    )
    assert holes.tokens[264:] == (b"", b"<|endoftext|>")
    with pytest.raises(InputError, match="the tokenizer holes has no token 264"):
        vocabulary_of(holes)


def test_vocabularies_that_are_wrong(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "t.bin", SMALL)
    write_vocabulary(tmp_path / "t.tiktoken", SMALL)
    good, lines = (tmp_path / "t.bin").read_bytes(), (tmp_path / "t.tiktoken").read_bytes().splitlines(keepends=True)
    last = good.rindex(b"<|endoftext|>")
    binaries = {
        b"": "0 bytes, too short for the header",
        good[:1023]: "1023 bytes, too short",
        b"\0" + good[1:]: "magic 20240128, version 2; expected 20240328, 1 or 2",
        good[:4] + b"\3" + good[5:]: "version 3",
        good[:4] + b"\1" + good[5:]: "265 tokens; version 1 has 50257",
        good[:-1]: "token 264 of 265 is not there: the file ends",
        good + b"x": "1 bytes after the last of 265 tokens",
        good[: last - 1] + b"\0" + good[last:]: "token 264 of 265 has no bytes",
        good[:8] + b"\xff\xff\xff\xff" + good[12:]: "token 265 of 4294967295 is not there",
        good[:12] + b"\x09\x01" + good[14:]: "the end of text is token 265 of 265",
        good[:1025] + b"\1" + good[1026:]: "token 0 is there twice",
        good[:12] + b"\5\0" + good[14:]: "no token for the byte 5",
    }
    texts = {
        b"": "no tokens in this rank file",
        b"".join([lines[1], *lines[1:]]): ":1: 'AQ== 1'; expected 1 to 255 bytes in base64 and the rank 0",
        b"".join([*lines[:9], b"?? 9\n", *lines[10:]]): ":10: .*and the rank 9",
        b"".join([*lines[:9], b"CQ==\n", *lines[10:]]): ":10: .*and the rank 9",
        b"".join([*lines[:9], b" 9\n", *lines[10:]]): ":10: .*and the rank 9",
        b"".join([*lines[:9], b"CQ== 09\n", *lines[10:]]): ":10: .*and the rank 9",
        b"".join([*lines, b"AQ== 264\n"]): "token 1 is there twice",
        b"".join(lines[:99]): "no token for the byte 99",
        b"\xff" * 99: ":1: ",
    }
    for name, cases in (("t.bin", binaries), ("t.tiktoken", texts)):
        for data, message in cases.items():
            (tmp_path / name).write_bytes(data)
            with pytest.raises(InputError, match=rf"{name}.*{message}"):
                load_tokenizer(str(tmp_path / name))
    with pytest.raises(InputError, match=r"none\.tiktoken: no such file"):
        load_tokenizer(str(tmp_path / "none.tiktoken"))


def test_ranks_that_need_another_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "downloaded.tiktoken"
    write_vocabulary(path, SMALL)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("gptc.runtime.vocabulary.OTHER_PATTERNS", {digest: "cl100k_base"})
    with pytest.raises(InputError, match=r"(?s)the ranks of cl100k_base.*help: use --tokenizer cl100k_base"):
        load_tokenizer(str(path))
