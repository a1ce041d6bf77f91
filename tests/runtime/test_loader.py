"""The order in which batches are served: llm.c's, for any rank, from any position."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gptc.errors import GptcError, InputError, StorageError
from gptc.runtime.loader import SHUFFLE_SEED, Loader
from gptc.runtime.rng import Mt19937
from gptc.runtime.shard import LLAMA3, Memory, open_shard, write_shard

B, T = 4, 8


def llmc(counts: list[int], seed: int | None, rank: int, world: int) -> Iterator[tuple[int, int]]:
    """(shard, first token) of batch after batch, by the state machine of llm.c's dataloader, written down anew."""
    sample, rng = world * B * T, Mt19937(seed or 0)
    order = list(range(len(counts)))

    def shuffle(items: list[int]) -> None:
        for i in range(len(items) - 1, 0, -1):
            j = int(rng.randint32(1)[0]) % (i + 1)
            items[i], items[j] = items[j], items[i]

    while True:
        if seed is not None:
            shuffle(order)
        for shard in order:
            samples = list(range((counts[shard] - 1) // sample))
            if seed is not None:
                shuffle(samples)
            yield from ((shard, s * sample + rank * B * T) for s in samples)


@pytest.mark.llmc(check="K5")
@pytest.mark.parametrize("seed", [None, SHUFFLE_SEED, SHUFFLE_SEED + 1])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_the_order_is_that_of_llmc(seed: int | None, rank: int, world: int) -> None:
    """Four shards of different sizes, three epochs and more, first in turn, then from anywhere."""
    counts = [97, 1000, 450, 97 * 3]
    starts = np.cumsum([0, *counts])
    shards = [Memory(np.arange(a, a + n, dtype=np.uint16)) for a, n in zip(starts, counts, strict=False)]
    loader = Loader(shards, B, T, 65536, seed, rank, world)
    assert loader.samples == sum((n - 1) // (world * B * T) for n in counts)
    steps = 3 * loader.samples + 2
    expected = [int(starts[k]) + at for (k, at), _ in zip(llmc(counts, seed, rank, world), range(steps), strict=False)]
    for i in range(steps):
        x, y = loader.batch(i)
        assert x.ravel().tolist() == list(range(expected[i], expected[i] + B * T))
        assert (y == x + 1).all()
        assert x.shape == y.shape == (B, T)
        assert x.dtype == y.dtype == np.int32
    fresh = Loader(shards, B, T, 65536, seed, rank, world)
    for i in np.random.default_rng(0).permutation(steps).tolist():
        assert fresh.batch(i)[0][0, 0] == expected[i]


@pytest.mark.llmc(check="K5", golden="A14.6")
def test_order_of_tinyshakespeare() -> None:
    """1192 samples, as llm.c has them at B 4, T 64."""
    loader = Loader([Memory(np.arange(1192 * 2 + 1, dtype=np.uint16))], 1, 2, 65536, SHUFFLE_SEED)
    first = [int(loader.batch(i)[0][0, 0]) // 2 for i in range(10)]
    assert first == [408, 791, 914, 1057, 81, 450, 299, 907, 582, 321]


@pytest.mark.llmc(check="K5")
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("seed", [None, SHUFFLE_SEED])
def test_every_token_once_an_epoch(tmp_path: Path, world: int, seed: int | None) -> None:
    """llm.c's own test of its loader: 4 shards of 140 tokens, B 4, T 8; here the ranks really shuffle."""
    shards = []
    for k in range(4):
        write_shard(tmp_path / f"{k}.bin", np.arange(140 * k, 140 * (k + 1)))
        shards.append(open_shard(tmp_path / f"{k}.bin"))
    loaders = [Loader(shards, B, T, 65536, seed, rank, world) for rank in range(world)]
    whole = Loader(shards, world * B, T, 65536, seed)
    assert whole.samples == 4 * (4 // world)
    for epoch in range(3):
        seen = np.zeros(560, int)
        for i in range(epoch * whole.samples, (epoch + 1) * whole.samples):
            batches = [loader.batch(i) for loader in loaders]
            for x, y in batches:
                seen[x] += 1
                assert (y == x + 1).all()
            assert (np.concatenate([x for x, _ in batches]) == whole.batch(i)[0]).all()  # one rank of the whole batch
        assert (seen.reshape(4, 140)[:, :128] == 1).all()
        assert (seen.reshape(4, 140)[:, 128:] == 0).all()
    if seed is not None:
        orders = [[int(whole.batch(i)[0][0, 0]) for i in range(e, e + whole.samples)] for e in (0, whole.samples)]
        assert orders[0] != orders[1] != sorted(orders[1])


def test_wide_ids(tmp_path: Path) -> None:
    write_shard(tmp_path / "wide.bin", np.arange(100_000, 100_100), LLAMA3)
    loader = Loader([open_shard(tmp_path / "wide.bin")], 1, 3, 128_256)
    assert loader.batch(2)[1].tolist() == [[100_007, 100_008, 100_009]]


def test_ids_beyond_the_vocabulary_are_refused_with_their_place(tmp_path: Path) -> None:
    ids = np.zeros(200, np.uint16)
    ids[140] = 50
    write_shard(tmp_path / "t.bin", ids)
    shard = open_shard(tmp_path / "t.bin")
    loader = Loader([shard.part(10, 200)], B, T, 50)
    loader.batch(3)
    with pytest.raises(InputError, match=r"t\.bin: token 140 is 50; the model has 50"):
        loader.batch(4)
    assert Loader([shard], B, T, 51).batch(4)[0].max() == 50


def test_too_few_tokens() -> None:
    """The last shard may be too short for a sample: it is left out.  All of them may not."""
    shards = [Memory(np.zeros(n, np.uint16), f"{n} zeros") for n in (65, 64)]
    assert Loader(shards, B, T, 10, None, 0, 2).samples == 1
    with pytest.raises(InputError, match="64 zeros: 64 tokens; 2 ranks with batches of 4 x 8 need 65"):
        Loader(shards[1:] * 2, B, T, 10, None, 0, 2)
    with pytest.raises(InputError, match=r"rank 2 is not in 0\.\.1"):
        Loader([Memory(np.zeros(65, np.uint16))], B, T, 10, None, 2, 2)


def test_a_shard_that_is_cut_or_gone_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    write_shard(path, np.arange(200))
    loader = Loader([open_shard(path)], B, T, 65536)
    loader.batch(0)
    path.write_bytes(path.read_bytes()[:1100])
    loader.batch(0)
    with pytest.raises(StorageError, match=r"t\.bin: ends before byte 1218; it was whole"):
        loader.batch(2)
    other = Loader([open_shard_of(tmp_path)], B, T, 65536)
    (tmp_path / "other.bin").unlink()
    with pytest.raises(StorageError, match=r"other\.bin: cannot read: No such file"):
        other.batch(0)


def open_shard_of(folder: Path) -> object:
    write_shard(folder / "other.bin", np.arange(200))
    return open_shard(folder / "other.bin")


# -- its state -----------------------------------------------------------------------------------------


def shards_of(*counts: int) -> list[Memory]:
    return [Memory(np.arange(n, dtype=np.uint16), f"folder/{k}.bin") for k, n in enumerate(counts)]


def test_resuming_goes_on_where_it_was() -> None:
    shards = shards_of(500, 333)
    loader = Loader(shards, B, T, 65536, SHUFFLE_SEED)
    for index in (0, 1, 24, 25, 60, 1000):
        state = json.loads(json.dumps(loader.state(index)))
        again = Loader(shards, B, T, 65536, SHUFFLE_SEED)
        assert again.resume(state) == index
        for i in range(index, index + 30):
            assert (again.batch(i)[0] == loader.batch(i)[0]).all()


def test_resuming_with_as_many_tokens_a_step_on_other_ranks_is_exact() -> None:
    """One rank, then two with half the batch, then one again: each sample once in each of three epochs."""
    shards = shards_of(500, 333)
    one = Loader(shards, B, T, 65536, SHUFFLE_SEED)
    two = [Loader(shards, B // 2, T, 65536, SHUFFLE_SEED, rank, 2) for rank in range(2)]
    seen: list[int] = []
    index = 0
    for k in range(3 * one.samples):
        group = two if 10 <= k < 31 else [one]
        index = group[0].resume(one.state(index))
        seen += [int(loader.batch(index)[0][0, 0]) for loader in group if loader._rank == 0]
        index += 1
    assert [seen.count(v) for v in set(seen)].count(0) == 0
    assert len(seen) == 3 * one.samples
    for epoch in range(3):
        part = seen[epoch * one.samples : (epoch + 1) * one.samples]
        assert sorted(part) == sorted(32 * s for n in (15, 10) for s in range(n))


def test_resuming_with_another_batch_goes_on_after_as_many_tokens() -> None:
    shards = shards_of(6401, 3201)
    small, large = Loader(shards, B, T, 65536, 1), Loader(shards, 4 * B, T, 65536, 1)
    assert (small.samples, large.samples) == (300, 75)
    for index, expected in ((0, 0), (1, 1), (4, 1), (5, 2), (300, 75), (304, 76), (600, 150)):
        assert large.resume(small.state(index)) == expected
    assert small.resume(large.state(76)) == 304


def test_states_of_something_else_are_refused() -> None:
    loader = Loader(shards_of(500, 333), B, T, 65536, SHUFFLE_SEED)
    state = loader.state(7)
    for other in (shards_of(500), shards_of(333, 500), shards_of(500, 332)):
        with pytest.raises(InputError, match=r"loader state of other data: 2 shards of 833 tokens \(\w{12}\); this"):
            Loader(other, B, T, 65536, SHUFFLE_SEED).resume(state)
    with pytest.raises(InputError, match="shuffle seed 42; this run has 43"):
        Loader(shards_of(500, 333), B, T, 65536, 43).resume(state)
    wrong: list[dict[str, object]] = [
        {"next": -1}, {"next": "7"}, {"next": 7.0}, {"next": True}, {"format": 2}, {"sample": 0}, {"data": None},
        {"seed": "42"}, {"more": 1},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(GptcError, match="loader state with"):
            loader.resume(state | change)
    del state["tokens"]
    with pytest.raises(InputError, match="loader state with"):
        loader.resume(state)
    assert loader.resume(loader.state(7)) == 7
