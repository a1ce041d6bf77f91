"""Which kernels multiply bf16 on a GPU, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gptc.codegen.tensor_cores import SHARED_BYTES, Matmul, begin_aligned, choose_attention
from gptc.ir.graph import Placement, Value
from gptc.ir.types import DType, TensorType

FORWARD = Matmul(65536, 2304, 768, False, True, (768, 768, 2304), (), staged=1, fetched=0, aligned=True)
GRADIENT = Matmul(2304, 768, 65536, True, False, (2304, 768, 768), (), staged=0, fetched=0, aligned=True)


def test_products_of_gpt2() -> None:
    """What was measured to be fastest for the shapes of GPT-2 124M."""
    assert FORWARD.choose("sm_90a").params == {
        "BN": 192, "BLOCKS": 2, "STAGES": 4, "pingpong": True, "split": False, "fetch": False,
    }  # fmt: skip
    shapes = {"qkv": (2304, 768), "proj": (768, 768), "fc": (3072, 768), "fc_proj": (768, 3072)}
    works = {name: replace(GRADIENT, m=m, n=n) for name, (m, n) in shapes.items()}
    assert {name: work.parts(192) for name, work in works.items()} == {"qkv": 7, "proj": 5, "fc": 4, "fc_proj": 4}
    sweeps = {name: work.sweep(work.choose("sm_90a")) for name, work in works.items()}
    assert sweeps == {"qkv": 1, "proj": 1, "fc": 1, "fc_proj": 6}
    assert FORWARD.sweep(FORWARD.choose("sm_90a")) == 64
    head = replace(GRADIENT, m=50304).choose("sm_90a").params
    assert (head["BN"], head["pingpong"], head["split"]) == (192, True, False)


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (replace(FORWARD, aligned=False), "rows do not begin at multiples of 16 bytes"),
        (replace(FORWARD, n=2300, rows=(768, 768, 2300)), "rows do not begin at multiples of 16 bytes"),
        (replace(FORWARD, apart=(8, 8, 8, 8, 8, 8)), "a batch of products"),
        (replace(FORWARD, staged=4, fetched=4), "do not fit in shared memory"),
    ],
)
def test_what_hopper_refuses_the_floor_takes(work: Matmul, why: str) -> None:
    choice = work.choose("sm_90a")
    assert choice.template == "matmul"
    assert why in choice.note


def test_the_floor_says_when_it_is_slow() -> None:
    assert FORWARD.choose("sm_80").note == ""
    slow = replace(FORWARD, aligned=False).choose("sm_80")
    assert slow.params["aligned"] is False
    assert "one at a time" in slow.note


@pytest.mark.parametrize("staged", range(4))
@pytest.mark.parametrize("fetched", range(3))
def test_shared_memory_suffices(staged: int, fetched: int) -> None:
    params = replace(FORWARD, staged=staged, fetched=fetched).choose("sm_90a").params
    if "fetch" in params:
        stages, width = params["STAGES"], params["BN"]
        assert isinstance(stages, int)
        assert isinstance(width, int)
        ring = stages * (128 + width) * 64 * 2
        chunk = 16 * 64 * 2  # of a warp, of which eight store
        staging = 8 * chunk * (staged * (1 if fetched else 2) + width // 64 * fetched)
        assert ring + staging + 16 * stages + 1024 <= SHARED_BYTES
        assert stages >= 3


def test_attention() -> None:
    def chosen(size: int, march: str = "sm_90a", aligned: bool = True, dtype: DType = DType.bf16) -> str:
        return choose_attention("attention", size, dtype, aligned, march).template

    assert chosen(64) == chosen(128) == "attention_sm90"
    assert chosen(64, "sm_80") == "attention"
    assert chosen(20) == chosen(256) == chosen(64, aligned=False) == chosen(64, dtype=DType.f32) == "attention_f32"
    assert "heads of 20 elements" in choose_attention("attention", 20, DType.bf16, True, "sm_80").note


def test_alignment_is_that_of_the_plan() -> None:
    x = Value("x", TensorType.of(DType.bf16, (8, 8)))
    assert begin_aligned([x], {})
    assert begin_aligned([x], {"x": Placement("arena", 64)})
    assert not begin_aligned([x], {"x": Placement("arena", 72)})
