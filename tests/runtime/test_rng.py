"""Random numbers against published values of PyTorch and llm.c, and schedules against llm.c's."""

from __future__ import annotations

import numpy as np
import pytest

from gptc.errors import InputError
from gptc.runtime.rng import BLOCK, CHUNK, TINY, Mt19937, XorShift
from gptc.runtime.schedule import Schedule

D12_WTE = (
    0.03853830, 0.02974568, 0.01801434, -0.04211043, 0.01356837, -0.02469090, -0.00086135, -0.03209334,
    -0.01504272, 0.03297446, -0.00784957, -0.02807213, -0.01455763, -0.01118860, -0.01537678, 0.01524891,
)  # fmt: skip


@pytest.mark.llmc(check="K5", golden="A14.5")
def test_raw_stream() -> None:
    assert Mt19937(137).randint32(5).tolist() == [4053805790, 2173880614, 380293709, 1237255315, 2986595568]


@pytest.mark.llmc(check="K2", golden="A14.7")
def test_first_weights_of_d12() -> None:
    values = Mt19937(42).normal(1 << 20, 0.02)
    np.testing.assert_allclose(values[:16], D12_WTE, rtol=0, atol=1e-8)
    assert abs(values.mean(dtype=np.float64)) < 5 * 0.02 / np.sqrt(values.size)
    assert values.std(dtype=np.float64) == pytest.approx(0.02, rel=5 / np.sqrt(2 * values.size))


def scalar_normal(rng: Mt19937, n: int) -> np.ndarray:
    """PyTorch's algorithm, one value at a time."""
    out = np.zeros(n)
    if n < BLOCK:
        for i in range(0, n, 2):
            high = [int(word) for word in rng.randint32(4)]
            u1, u2 = (np.float32(((a << 32 | b) & ((1 << 53) - 1)) / (1 << 53)) for a, b in (high[:2], high[2:]))
            radius, angle = np.sqrt(-2 * np.log(np.float32(1) - u2 + TINY)), 2 * np.pi * float(u1)
            out[i : i + 2] = [radius * np.cos(angle), radius * np.sin(angle)][: n - i]
        return out
    uniforms = rng.uniform(n)

    def block(start: int, u: np.ndarray) -> None:
        for t in range(BLOCK // 2):
            radius = np.sqrt(-2 * np.log(np.float32(1) - u[t] + TINY))
            angle = 2 * np.pi * float(u[t + 8])
            out[start + t], out[start + t + 8] = radius * np.cos(angle), radius * np.sin(angle)

    for start in range(0, n - 15, BLOCK):
        block(start, uniforms[start : start + BLOCK])
    if n % BLOCK:
        block(n - BLOCK, rng.uniform(BLOCK))
    return out


@pytest.mark.parametrize("n", [1, 2, 7, 15, 16, 17, 31, 32, 333, CHUNK + 16, CHUNK + 21])
def test_normal_is_the_scalar_algorithm_and_takes_as_many_draws(n: int) -> None:
    fast, slow = Mt19937(n), Mt19937(n)
    np.testing.assert_allclose(fast.normal(n), scalar_normal(slow, n), rtol=1e-5, atol=1e-6)
    assert fast.randint32(1) == slow.randint32(1)


def test_mean_and_std_apply_to_every_form() -> None:
    for n in (5, 40):
        np.testing.assert_allclose(Mt19937(1).normal(n, 2.0, 3.0), Mt19937(1).normal(n) * 2 + 3, rtol=1e-6)


@pytest.mark.llmc(check="K5", golden="A14.6")
def test_shuffle_of_llmc() -> None:
    order = Mt19937(42).permutation(1192)
    assert order[:10].tolist() == [408, 791, 914, 1057, 81, 450, 299, 907, 582, 321]
    assert sorted(order.tolist()) == list(range(1192))


@pytest.mark.parametrize("n", [0, 1])
def test_permutation_of_almost_nothing(n: int) -> None:
    assert Mt19937(42).permutation(n).tolist() == list(range(n))


def test_xorshift() -> None:
    rng = XorShift(1337)
    expected = [0.23031723, 0.19051826, 0.31086516, 0.90265948, 0.68491787]
    assert [rng.uniform() for _ in range(5)] == pytest.approx(expected, abs=5e-9)
    rng = XorShift(13371337)
    assert [rng.randint32() for _ in range(3)] == [740755583, 337499614, 90980514]
    assert XorShift(0).randint32() != XorShift(0).state != 0


@pytest.mark.llmc(check="K6", golden="A14.10")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cosine", [6e-5, 6e-4, 6e-4, 3.3e-4, 1.231680e-4, 7.628299e-5, 6.016448e-5, 6e-5]),
        ("linear", [6e-5, 6e-4, 6e-4, 3.3e-4, 1.8e-4, 1.2e-4, 6.6e-5, 6e-5]),
        ("wsd", [6e-5, 6e-4, 6e-4, 6e-4, 6e-4, 2.181623e-4, 7.367311e-5, 6e-5]),
        ("constant", [6e-4] * 8),
    ],
)
def test_schedules_of_llmc(kind: str, expected: list[float]) -> None:
    schedule = Schedule(kind, 6e-4, 100, warmup=10, final_frac=0.1)
    rates = [schedule(step) for step in (0, 9, 10, 55, 80, 90, 99, 100)]
    assert rates == pytest.approx(expected, rel=1e-6)
    assert schedule(1000) == schedule(100)


def test_step_decay() -> None:
    """As PyTorch's StepLR behind a warmup; without one, lr gamma^floor(step / step_size)."""
    schedule = Schedule("step", 6e-4, 100, warmup=10, step_size=30, gamma=0.1)
    rates = [schedule(step) for step in (0, 9, 10, 39, 40, 69, 70, 99)]
    assert rates == pytest.approx([6e-5, 6e-4, 6e-4, 6e-4, 6e-5, 6e-5, 6e-6, 6e-6], rel=1e-12)
    plain = Schedule("step", 0.5, 100, step_size=7, gamma=0.8)
    assert [plain(step) for step in range(100)] == pytest.approx([0.5 * 0.8 ** (step // 7) for step in range(100)])


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 9), (3, 3)])
def test_schedules_at_the_edges(kind: str, steps: int, warmup: int) -> None:
    schedule = Schedule(kind, 1.0, steps, warmup, 0.1)
    assert all(0.1 <= schedule(step) <= 1.0 for step in range(steps))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "cosin"}, "did you mean 'cosine'"),
        ({"lr": float("nan")}, "positive and finite"),
        ({"lr": 0.0}, "positive and finite"),
        ({"steps": 0}, "steps >= 1"),
        ({"warmup": -1}, "warmup >= 0"),
        ({"final_frac": 1.5}, "must be in 0..1"),
        ({"kind": "step"}, "need step_size >= 1"),
        ({"kind": "step", "step_size": 3, "gamma": 0.0}, "gamma in"),
    ],
)
def test_wrong_schedules(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Schedule(**{"kind": "cosine", "lr": 1.0, "steps": 10} | fields)  # type: ignore[arg-type]
