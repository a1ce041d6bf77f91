"""Downloads over a network that breaks: nothing is fetched twice, and nothing wrong is kept."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest

from gptc.corpus import download as download_module
from gptc.corpus.download import Remote, download, list_folder
from gptc.errors import StorageError
from tests.corpus.conftest import Server

BODY = bytes(range(256)) * 40


def remote(server: Server, body: bytes = BODY) -> Remote:
    server.files["/data/file.bin"] = body
    return Remote(f"{server.url}/data/file.bin", "file.bin", hashlib.sha256(BODY).hexdigest())


def fetch(wanted: Remote, folder: Path) -> list[tuple[str, int, int | None]]:
    told: list[tuple[str, int, int | None]] = []
    path = download(wanted, folder, lambda *now: told.append(now))
    assert path == folder / "file.bin"
    assert path.read_bytes() == BODY
    assert [p.name for p in folder.iterdir()] == ["file.bin"]
    return told


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    told = fetch(remote(server), tmp_path / "new/folder")
    assert told[-1] == ("file.bin", len(BODY), len(BODY))
    assert fetch(remote(server), tmp_path / "new/folder") == []
    assert server.requests == ["/data/file.bin"]


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        ([1000], ["", "bytes=1000-"]),
        ([1000, 2000, 10], ["", "bytes=1000-", "bytes=3000-", "bytes=3010-"]),
        ([0, 503, 500], ["", "", "", ""]),
        ([1000, "ignore"], ["", "bytes=1000-"]),
        ([1000, "shift"], ["", "bytes=1000-", "bytes=1000-"]),
    ],
)
def test_a_broken_transfer_goes_on(server: Server, tmp_path: Path, faults: list[int | str], ranges: list[str]) -> None:
    wanted = remote(server)
    server.faults = faults
    fetch(wanted, tmp_path)
    assert [request.partition(" ")[2] for request in server.requests] == ranges


def test_the_next_run_goes_on_too(server: Server, tmp_path: Path) -> None:
    wanted = remote(server)
    server.faults = [1000, *[0] * 4]
    with pytest.raises(StorageError, match=r"(?s)ended after 1000 of 10240 bytes.*goes on at byte 1000; .*--from"):
        fetch(wanted, tmp_path)
    assert (tmp_path / "file.bin.partial").read_bytes() == BODY[:1000]
    fetch(wanted, tmp_path)
    assert server.requests[-1] == "/data/file.bin bytes=1000-"


def test_a_transfer_that_only_lacked_its_end(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.partial").write_bytes(BODY)
    fetch(remote(server), tmp_path)
    assert server.requests == [f"/data/file.bin bytes={len(BODY)}-"]
    (tmp_path / "file.bin").unlink()
    (tmp_path / "file.bin.partial").write_bytes(BODY + b"more")
    fetch(remote(server), tmp_path)
    assert server.requests[-1] == "/data/file.bin"


def test_another_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    wanted = remote(server, b"something else")
    with pytest.raises(StorageError, match=r"sha256 \w{64}; expected \w{64}; what has come was removed"):
        fetch(wanted, tmp_path)
    assert not list(tmp_path.iterdir())
    remote(server)
    fetch(wanted, tmp_path)
    (tmp_path / "file.bin").write_bytes(b"damaged since")
    with pytest.raises(StorageError, match="sha256"):
        fetch(wanted, tmp_path)
    fetch(wanted, tmp_path)


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(server: Server, tmp_path: Path, status: int) -> None:
    wanted = remote(server)
    server.faults = [status]
    with pytest.raises(StorageError, match=rf"(?s)/data/file\.bin: {status} .*help: without a network.*--from"):
        fetch(wanted, tmp_path)
    assert len(server.requests) == 1
    server.faults = [500] * 5
    with pytest.raises(StorageError, match="500 Internal Server Error"):
        fetch(wanted, tmp_path)
    assert len(server.requests) == 6


def test_no_network(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = Remote(f"http://127.0.0.1:{unused.getsockname()[1]}/x", "x", "0" * 64)
        with pytest.raises(StorageError, match=r"(?s)Connection refused.*without a network"):
            fetch(nowhere, tmp_path)
        monkeypatch.setattr(download_module, "TIMEOUT", 0.1)
        monkeypatch.setattr(download_module, "ATTEMPTS", 2)
        unused.listen()  # and never answer
        with pytest.raises(StorageError, match=r"(?s)timed out.*without a network"):
            fetch(nowhere, tmp_path)
    with pytest.raises(StorageError, match=r"(?s)x: .*without a network"):
        fetch(Remote("http://nowhere.invalid/x", "x", "0" * 64), tmp_path)


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "file.bin.partial").mkdir()
    with pytest.raises(StorageError, match=r"file\.bin\.partial: cannot write"):
        download(remote(server), tmp_path, lambda *now: None)
    with pytest.raises(StorageError, match="cannot make this folder"):
        download(remote(server), tmp_path / "file/folder", lambda *now: None)


def test_listings(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    path = "/api/datasets/some/set/tree/main/sample/10BT"
    names = ("sample/10BT/b.parquet", "sample/10BT/a.parquet")
    files = [{"type": "file", "path": name, "lfs": {"oid": "ab" * 32}} for name in names]
    server.files[path] = json.dumps([{"type": "directory", "path": "sample/10BT/more"}, *files]).encode()
    server.faults = [503]
    found = list_folder("some/set", "sample/10BT")
    assert [f.name for f in found] == ["a.parquet", "b.parquet"]
    assert found[0].url == f"{server.url}/datasets/some/set/resolve/main/sample/10BT/a.parquet"
    assert found[0].sha256 == "ab" * 32
    for wrong in (b"", b"{}", b"[1]", b'[{"type": "file", "path": "a"}]', server.files[path].replace(b"abab", b"zz")):
        server.files[path] = wrong
        with pytest.raises(StorageError, match=r"not a list of files|no files there"):
            list_folder("some/set", "sample/10BT")
