"""The store: whole entries or none, damage found, races harmless, bounded, private."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from gptc.errors import InputError, StorageError
from gptc.runtime import cache as cache_module
from gptc.runtime.cache import Cache

KEY = "k" * 64


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def content(text: str, size: int = 0) -> cache_module.Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "a").write_text(text + "." * size)
        (folder / "b").write_text(text[::-1])

    return build


def test_put_then_get(cache: Cache) -> None:
    assert cache.get(KEY) is None
    entry = cache.put(KEY, content("one"))
    assert (entry / "a").read_text() == "one"
    assert cache.put(KEY, content("two")) == entry == cache.get(KEY)
    assert (entry / "a").read_text() == "one"
    assert Cache(cache.root).get(KEY) == entry


def test_environment_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTC_CACHE_DIR", str(tmp_path / "mine"))
    assert Cache().root == tmp_path / "mine"
    monkeypatch.delenv("GPTC_CACHE_DIR")
    assert cache_module.default_root().name == "gptc"


def test_one_reader_of_the_environment() -> None:
    package = Path(cache_module.__file__).parents[1]
    readers = [path.name for path in package.rglob("*.py") if '"GPTC_CACHE_DIR"' in path.read_text()]
    assert readers == ["cache.py"]


def test_every_flipped_bit_is_found(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(0)
    for n in range(200):
        key = f"{n:064}"
        entry = cache.put(key, content(key))
        victim = rng.choice(sorted(entry.iterdir()))
        data = bytearray(victim.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        victim.write_bytes(data)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert cache.get(key) is None
        assert len(caplog.records) == 1
        assert (cache.put(key, content("again")) / "a").read_text() == "again"


def test_missing_and_extra_files_are_damage(cache: Cache) -> None:
    (cache.put(KEY, content("x")) / "a").unlink()
    assert cache.get(KEY) is None
    (cache.put(KEY, content("x")) / "c").write_text("")
    assert cache.get(KEY) is None
    (cache.put(KEY, content("x")) / cache_module.SUMS).write_text("")
    assert cache.get(KEY) is None


def test_verify_drops_only_what_is_damaged(cache: Cache) -> None:
    for n in range(5):
        cache.put(f"key{n}", content(str(n)))
    (cache.root / "entries/key3/b").write_text("!")
    assert cache.verify() == ("key3",)
    assert cache.verify() == ()
    assert cache.stats().entries == 4


def test_a_failing_build_leaves_nothing(cache: Cache) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise InputError.of("no")

    with pytest.raises(InputError, match="no"):
        cache.put(KEY, fail)
    assert cache.get(KEY) is None
    assert not list((cache.root / "tmp").iterdir())


def test_a_full_disk_is_told(cache: Cache) -> None:
    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"(?s)No space left on device.*help: set GPTC_CACHE_DIR"):
        cache.put(KEY, fail)
    assert not list((cache.root / "tmp").iterdir())


@pytest.mark.parametrize("root", ["/proc/gptc", "/dev/null/gptc", "/dev/null"])
def test_unwritable_roots(root: str) -> None:
    with pytest.raises(StorageError, match="help: "):
        Cache(Path(root))


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_root_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(StorageError, match="others may write"):
        Cache(tmp_path)


def test_a_root_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StorageError, match="belongs to another user"):
        Cache(tmp_path)


def test_new_roots_are_private(cache: Cache) -> None:
    assert cache.root.stat().st_mode & 0o777 == 0o700


def test_least_recently_used_goes_first(cache: Cache) -> None:
    now = time.time()
    for n in range(6):
        os.utime(cache.put(f"key{n}", content("x", 1000)), (now - 9000 + n, now - 9000 + n))
    cache.get("key0")
    cache.max_bytes = 3 * (cache.stats().bytes // 6)
    cache.trim()
    assert [path.name for path in sorted((cache.root / "entries").iterdir())] == ["key0", "key4", "key5"]
    cache.max_bytes = 0
    cache.trim()
    assert [path.name for path in (cache.root / "entries").iterdir()] == ["key0"]  # just used: may be about to load


def test_leftovers_of_killed_processes_are_swept(cache: Cache) -> None:
    old, new = cache.root / "tmp/old", cache.root / "tmp/new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (1, 1))
    cache.trim()
    assert list((cache.root / "tmp").iterdir()) == [new]


def test_clear(cache: Cache) -> None:
    for n in range(3):
        cache.put(f"key{n}", content("x"))
    assert cache.clear() == 3
    assert cache.stats().entries == cache.stats().bytes == 0
    assert not list((cache.root / "locks").iterdir())
    cache.put(KEY, content("x"))


def test_the_lock_saves_work(cache: Cache) -> None:
    builds = []

    def slow(folder: Path) -> None:
        builds.append(1)
        time.sleep(0.05)
        content("x")(folder)

    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda _: cache.put(KEY, slow), range(8)))
    assert len(set(entries)) == len(builds) == 1


def test_a_lock_that_is_never_freed(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "LOCK_WAIT", 0.05)
    with FileLock(cache.root / "locks" / f"{KEY}.lock"):
        assert (cache.put(KEY, content("x")) / "a").read_text() == "x"
    assert "cannot be locked" in caplog.text


def test_without_the_lock_the_loser_drops_its_copy(cache: Cache) -> None:
    def race(folder: Path) -> None:
        content("loser")(folder)
        if cache.get(KEY) is None:  # another process, on a file system whose locks do nothing
            cache._publish(KEY, content("winner"))

    entry = cache.put(KEY, race)
    assert (entry / "a").read_text() == "winner"
    assert not list((cache.root / "tmp").iterdir())


def _hammer(root: Path, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        n = rng.randrange(25)
        entry = Cache(root).put(f"key{n}", content(f"value {n}"))
        if (entry / "a").read_text() != f"value {n}":
            os._exit(3)


def test_processes_that_share_and_die(cache: Cache) -> None:
    """Eight processes on one store, half of them killed at random: the survivors see no damage."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    workers = [context.Process(target=_hammer, args=(cache.root, n, 40 if n % 2 else 100_000)) for n in range(8)]
    for worker in workers:
        worker.start()
    while cache.stats().entries < 5:
        time.sleep(0.01)
    rng = random.Random(1)
    for worker in workers[::2]:
        time.sleep(rng.random() * 0.1)
        assert worker.pid
        os.kill(worker.pid, signal.SIGKILL)
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [-9, 0] * 4
    assert cache.verify() == ()
