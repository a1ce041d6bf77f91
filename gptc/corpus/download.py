"""Files from the network: a broken transfer goes on where it ended, and the hash decides whether the file is right."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptc.errors import GptcError, InputError, StorageError
from gptc.runtime.atomic import make_folder
from gptc.runtime.hashing import file_hash

ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt; twice as many before each one after it."""
TIMEOUT = 30.0
CHUNK = 1 << 20
LISTING_LIMIT = 16 << 20
BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)
OFFLINE = "without a network, fetch the file elsewhere and name it with --from"

Report = Callable[[str, int, int | None], None]
"""Name of a file, how many of its bytes are here, how many there are."""


@dataclass(frozen=True)
class Remote:
    """A file somewhere else."""

    url: str
    name: str
    sha256: str


def download(remote: Remote, folder: Path, report: Report) -> Path:
    """The file in `folder`: the one that is there, or fetched.

    What has come of a transfer that fails stays there as NAME.partial, and is the beginning of the next.  Raises
    StorageError where it cannot be had, or is not the one with this hash.
    """
    path, partial = folder / remote.name, folder / f"{remote.name}.partial"
    make_folder(folder)
    if not path.exists():
        _retry(lambda: _transfer(remote, partial, report), remote.url, partial)
        _check(partial, remote)
        partial.rename(path)
    else:
        _check(path, remote)
    return path


def list_folder(repository: str, folder: str) -> list[Remote]:
    """The files of a folder of a data set on the Hugging Face Hub, in the order of their names."""
    root = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{root}/api/datasets/{repository}/tree/main/{folder}"
    body = bytearray()

    def fetch() -> None:
        with urllib.request.urlopen(_request(url), timeout=TIMEOUT) as response:
            body[:] = response.read(LISTING_LIMIT)

    _retry(fetch, url, None)
    try:
        found = [
            Remote(f"{root}/datasets/{repository}/resolve/main/{entry['path']}", Path(entry["path"]).name, _oid(entry))
            for entry in json.loads(body)
            if entry["type"] == "file"
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError.of(f"{url}: not a list of files with their hashes: {error!r:.100}", None, OFFLINE) from None
    if not found:
        raise StorageError.of(f"{url}: no files there", None, OFFLINE)
    return sorted(found, key=lambda remote: remote.name)


def _oid(entry: dict[str, Any]) -> str:
    oid = entry["lfs"]["oid"]
    if not re.fullmatch(r"[0-9a-f]{64}", oid):
        raise ValueError(oid)
    return str(oid)


def _request(url: str, start: int = 0) -> urllib.request.Request:
    headers = {"User-Agent": "gptc"} | ({"Range": f"bytes={start}-"} if start else {})
    return urllib.request.Request(url, headers=headers)


def _retry(attempt: Callable[[], None], url: str, partial: Path | None) -> None:
    """Try some times, with longer and longer pauses; what the server refuses is not asked for again."""
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or number + 1 == ATTEMPTS:
                raise _failure(url, f"{error.code} {error.reason}", partial) from None
        except BROKEN as error:
            if isinstance(error, OSError) and error.filename:  # of this machine's files, not of the network
                raise StorageError.of(f"{error.filename}: cannot write: {error.strerror}") from None
            if number + 1 == ATTEMPTS:
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                raise _failure(url, str(reason)[:200] or type(error).__name__, partial) from None
        time.sleep(PAUSE * 2**number)
    return None


def _failure(url: str, reason: str, partial: Path | None) -> GptcError:
    here = partial.stat().st_size if partial and partial.exists() else 0
    again = f"the same command goes on at byte {here}; " if here else ""
    return StorageError.of(f"{url}: {reason}", None, f"{again}{OFFLINE}")


def _transfer(remote: Remote, partial: Path, report: Report) -> None:
    """Append to `partial` what is missing.  Raises ConnectionError where the transfer ends early."""
    here = partial.stat().st_size if partial.exists() else 0
    try:
        response = urllib.request.urlopen(_request(remote.url, here), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not here:
            raise
        error.close()
        if error.headers.get("Content-Range") != f"bytes */{here}":  # else it is here, whole
            partial.unlink()
            raise ConnectionError("the server has another file now") from None
        return
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {here}-"):
            raise ConnectionError(f"asked for bytes from {here} on, got {response.headers.get('Content-Range')!r}")
        here = here if resumed else 0
        length = response.headers.get("Content-Length")
        total = here + int(length) if length and length.isdecimal() else None
        with partial.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                here += len(chunk)
                report(remote.name, here, total)
    if total is not None and here < total:
        raise ConnectionError(f"the connection ended after {here} of {total} bytes")


def _check(path: Path, remote: Remote) -> None:
    """The file is the right one; if not, it goes, so that the next attempt starts afresh."""
    if (found := file_hash(path)) != remote.sha256:
        path.unlink()
        message = f"{remote.url}: sha256 {found}; expected {remote.sha256}; what has come was removed"
        raise StorageError.of(message, None, OFFLINE)


def require_files(paths: list[Path], recipe: str, one: bool) -> None:
    """What `--from` names can be read, and is as many files as the recipe takes."""
    if one and len(paths) != 1:
        raise InputError.of(f"--from names {len(paths)} files; the recipe {recipe} takes one")
    for path in paths:
        if not path.exists():
            raise InputError.of(f"{path}: no such file")
