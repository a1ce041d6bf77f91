"""Files made to hurt: each is refused with one clear message, quickly and in little memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gptc.errors import GptcError, InputError, StorageError
from gptc.model import load_description
from tests.damage.peak import Peak

NANO = (Path(__file__).parents[2] / "models" / "gpt2-nano.yaml").read_text()
LIMIT = 5.0
"""Seconds of the processor for one file."""
GROWTH = 200 << 10
"""KiB of memory for one file."""


def inserted(after: str, lines: str) -> bytes:
    """gpt2-nano with lines below the section that begins with `after`."""
    return NANO.replace(f"{after}:\n", f"{after}:\n{lines}").encode()


def laughs() -> bytes:
    """Nine aliases of nine aliases of nine ...: 9^9 values in 300 bytes."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]")
    return "\n".join(lines).encode()


def blocks_in_blocks(depth: int) -> str:
    """2^depth statements."""
    lines = []
    for i in range(depth):
        lines += [f"{'  ' * i}  b{i}:", f"{'  ' * i}    repeat: 2"]
    return "\n".join([*lines, f"{'  ' * depth}  z: 1", ""])


NESTED_PARAMS = "  g: {repeat: 1024, g: {repeat: 1024, g: {repeat: 1024, w: {shape: [C], init: ones}}}}\n"

FILES = {
    "bom": (b"\xef\xbb\xbf" + NANO.encode(), "begins with a UTF-8 byte order mark"),
    "utf16": (NANO.encode("utf-16"), "begins with a UTF-16 byte order mark"),
    "utf16_no_mark": (NANO.encode("utf-16-le"), "the character U+0000 is not allowed"),
    "latin1": ("model: grün".encode("latin-1"), "byte 9 is not UTF-8"),
    "nul": (b"model: a\0b", "1:9: error: the character U+0000 is not allowed"),
    "escape": (b"# \x1b[2J\n", "1:3: error: the character U+001B is not allowed"),
    "reordering": ("# \u202e\n".encode(), "1:3: error: the character U+202E is not allowed"),
    "old_mac": (NANO.replace("\n", "\r").encode(), "the character U+000D is not allowed"),
    "too_large": (NANO.encode() + b"#" * (1 << 20), "is larger than 1 MiB"),
    "large_scalar": (b"model: " + b"a" * 1_000_000, "is missing in this file"),
    "deep_list": (b"model: " + b"[" * 100_000, "nested deeper than 64 levels"),
    "deep_mapping": ("".join(" " * i + "a:\n" for i in range(900)).encode(), "nested deeper than 64 levels"),
    "long_list": (b"model: [" + b"1," * 500_000 + b"]", "more than 20000 values"),
    "billion_laughs": (laughs(), "more than 20000 values, aliases counted in full"),
    "nested_params": (inserted("params", NESTED_PARAMS), "more than 32768 parameters"),
    "nested_blocks": (inserted("graph", blocks_in_blocks(20)), "runs more than 50000 statements"),
    "long_dim_chain": (
        inserted("dims", "".join(f"  d{i}: d{i + 1}\n" for i in range(240)) + "  d240: -1\n"),
        "a size is between 1 and",
    ),
    "many_dims": (inserted("dims", "".join(f"  d{i}: 1\n" for i in range(300))), "at most 256 entries"),
    "long_number": (NANO.replace("T: 128", "T: " + "9" * 1900).encode(), "this number is too large"),
    "many_mistakes": (inserted("graph", "".join(f"  y{i}: jelu(x{i})\n" for i in range(3000))), "stopped after 20"),
}


@pytest.mark.parametrize("name", FILES)
def test_refused(name: str, tmp_path: Path) -> None:
    data, message = FILES[name]
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(data)
    start, peak = time.process_time(), Peak()
    with pytest.raises(InputError) as caught:
        load_description(path)
    assert time.process_time() - start < LIMIT
    assert peak.grown() < GROWTH
    text = str(caught.value)
    assert message in text
    assert f"{name}.yaml" in text
    assert not any(ord(c) < 32 and c != "\n" for c in text), "nothing that a terminal obeys"


PAYLOADS = [
    "!!python/object/apply:os.system ['touch PWNED']",
    "!!python/object/new:os.system ['touch PWNED']",
    "!!python/object/apply:subprocess.check_output [[touch, PWNED]]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1]",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch PWNED']",
    "!!binary dG91Y2g=",
    "!!set {a}",
    "!!timestamp 2001-01-01",
    "!!str tiny",
    "!custom {a: 1}",
    "&x !!python/name:os.system",
]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("place", ["model: {}", "{}: 1", "graph: [{}]"])
def test_tags_are_refused(payload: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.yaml"
    path.write_text(place.format(payload) + "\n")
    with pytest.raises(InputError, match=r"not allowed in a model file|not YAML"):
        load_description(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch PWNED')",
        "().__class__.__base__.__subclasses__()",
        "open('PWNED', 'w')",
        "x.__class__",
        "(lambda: x)()",
        "[x for x in (1,)]",
        "f'{x}'",
        "x if x else x",
        "(y := x)",
        "x @ x",
        "x % 2",
        "x // 2",
        "~x",
        "not x",
        "await x",
        "...",
        "None",
        "1j",
        "'text'",
        "{{ x }}",
    ],
)
def test_python_is_not_evaluated(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.yaml"
    quoted = text.replace("'", "''")
    path.write_text(NANO.replace("gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))", f"'{quoted}'"))
    with pytest.raises(InputError):
        load_description(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.yaml"]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2.yaml").write_text(NANO)
    for path, message, kind in (
        ("gpt3.yaml", "no model file 'gpt3.yaml'\n  help: did you mean 'gpt2.yaml'?", InputError),
        (".", "is a folder, not a model file", InputError),
        ("a\0b", "embedded null byte", StorageError),
        ("gpt2.yaml/x", "Not a directory", StorageError),
    ):
        with pytest.raises(GptcError) as caught:
            load_description(path)
        assert message in str(caught.value)
        assert type(caught.value) is kind
