"""A content-addressed store of build products: key -> folder of files, verified at each load.

Layout: `<root>/entries/<key>/{files..., SHA256SUMS}`, `<root>/tmp/` for entries being built, `<root>/locks/`.
An entry is built in a private folder and appears by one rename, so a reader sees it whole or not at all.
Locks only save work: without them two processes build the same entry, and the slower drops its copy.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from gptc.errors import StorageError
from gptc.runtime.atomic import sync

SUMS = "SHA256SUMS"
MAX_BYTES = 4 << 30
IN_USE = 3600.0  # seconds: an entry used more recently is never evicted, for it may be about to be loaded
STALE = 86400.0  # seconds: after which an unfinished entry belonged to a killed process
LOCK_WAIT = 600.0  # seconds: then build in spite of the lock
HINT = "set GPTC_CACHE_DIR to a folder of your own with free space, or run: gptc cache clear"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stats:
    """What the store holds."""

    root: Path
    entries: int
    bytes: int
    max_bytes: int


def default_root() -> Path:
    """GPTC_CACHE_DIR, else the user's cache folder.  The only reader of that variable."""
    chosen = os.environ.get("GPTC_CACHE_DIR")
    return Path(chosen).absolute() if chosen else user_cache_path("gptc", appauthor=False)


class Cache:
    """The store under `root`, made on first use and readable by its owner alone."""

    def __init__(self, root: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.root = root or default_root()
        self.max_bytes = max_bytes
        with _storage(self.root):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(self.root)
            for name in ("entries", "tmp", "locks"):
                (self.root / name).mkdir(mode=0o700, exist_ok=True)

    def get(self, key: str) -> Path | None:
        """The folder of an entry, its files verified, or None.  A damaged entry is dropped with a warning."""
        entry = self._entry(key)
        with _storage(self.root):
            if not entry.is_dir():
                return None
            if not _intact(entry):
                log.warning("cache entry %s is damaged and will be built again", key[:16])
                shutil.rmtree(entry, ignore_errors=True)
                return None
            os.utime(entry)  # recency, for eviction
        return entry

    def put(self, key: str, build: Callable[[Path], None]) -> Path:
        """The entry `key`, made by `build(private folder)` unless it is already there.

        What `build` raises passes through, and leaves nothing behind.
        """
        lock = FileLock(self.root / "locks" / f"{self._entry(key).name}.lock", timeout=LOCK_WAIT)
        with _storage(self.root):
            try:
                lock.acquire()
            except (Timeout, NotImplementedError):  # a holder that hangs, or a file system without locks
                log.warning("cache entry %s cannot be locked; building without the lock", key[:16])
            try:
                return self.get(key) or self._publish(key, build)
            finally:
                lock.release()

    def _publish(self, key: str, build: Callable[[Path], None]) -> Path:
        entry = self._entry(key)
        private = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
        try:
            build(private)
            _seal(private)
            try:
                private.rename(entry)
            except OSError:
                if not (entry.is_dir() and _intact(entry)):  # not a lost race: a real failure
                    raise
            sync(entry.parent)
        finally:
            shutil.rmtree(private, ignore_errors=True)
        return entry

    def trim(self) -> None:
        """Evict the least recently used entries until the store fits `max_bytes`; sweep what killed processes left."""
        now = time.time()
        with _storage(self.root):
            for folder in self._folders("tmp"):
                if now - _used(folder) > STALE:
                    shutil.rmtree(folder, ignore_errors=True)
            by_age = sorted(self._folders("entries"), key=_used)
            total = sum(map(_size, by_age))
            for entry in by_age:
                if total <= self.max_bytes or now - _used(entry) < IN_USE:
                    break
                total -= _size(entry)
                self._drop(entry)

    def stats(self) -> Stats:
        with _storage(self.root):
            entries = self._folders("entries")
            return Stats(self.root, len(entries), sum(map(_size, entries)), self.max_bytes)

    def verify(self) -> tuple[str, ...]:
        """Check every entry; the keys of those that were damaged, and are dropped now."""
        with _storage(self.root):
            damaged = [entry for entry in self._folders("entries") if not _intact(entry)]
            for entry in damaged:
                self._drop(entry)
        return tuple(entry.name for entry in damaged)

    def clear(self) -> int:
        """Drop everything; how many entries that were."""
        with _storage(self.root):
            entries = self._folders("entries")
            for folder in entries + self._folders("tmp"):
                self._drop(folder)
        return len(entries)

    def _entry(self, key: str) -> Path:
        return self.root / "entries" / key

    def _folders(self, name: str) -> list[Path]:
        return sorted(path for path in (self.root / name).iterdir() if path.is_dir())

    def _drop(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        (self.root / "locks" / f"{folder.name}.lock").unlink(missing_ok=True)


@contextmanager
def _storage(root: Path) -> Iterator[None]:
    """OSErrors of the store become one kind of error with a way out."""
    try:
        yield
    except OSError as error:
        raise StorageError.of(f"cache {root}: {error.strerror or error}", None, HINT) from None


def _check_owner(root: Path) -> None:
    """What another user could write here would be loaded as code."""
    status = root.stat()
    if status.st_uid != os.geteuid():
        raise StorageError.of(f"cache {root}: belongs to another user (uid {status.st_uid})", None, HINT)
    if status.st_mode & 0o022:
        raise StorageError.of(f"cache {root}: others may write to it", None, f"run: chmod 700 {root}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _seal(folder: Path) -> None:
    """Write the sums of all files and force everything to the disk."""
    names = sorted(path.name for path in folder.iterdir())
    (folder / SUMS).write_text("".join(f"{_digest(folder / name)}  {name}\n" for name in names))
    for name in (*names, SUMS):
        sync(folder / name)
    sync(folder)


def _intact(entry: Path) -> bool:
    """Whether the entry holds exactly the files that were sealed in it."""
    try:
        lines = (entry / SUMS).read_text().splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        names = {path.name for path in entry.iterdir()} - {SUMS}
        return bool(sums) and names == sums.keys() and all(_digest(entry / n) == d for n, d in sorted(sums.items()))
    except (OSError, UnicodeDecodeError):
        return False


def _size(folder: Path) -> int:
    try:
        return sum(path.lstat().st_size for path in folder.iterdir())
    except FileNotFoundError:  # dropped by another process meanwhile
        return 0


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
