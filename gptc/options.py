"""Every option of the compiler, resolved once and written into the artefact's manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Options:
    """What is bound at compile time.  The model file never sets these."""

    target: str = "c"
    """`c` (C11 + OpenMP) or `cuda` (CUDA C++)."""
    mode: str = "train"
    """`train` (step, evaluate) or `infer` (prefill and decode, or logits)."""
    batch: int = 4
    """Sequences in a micro-step (B)."""
    seq: int = 64
    """Positions in a sequence (T)."""
    micro_steps: int = 1
    """Micro-steps whose gradients are summed before an update."""
    ranks: bool = False
    """Average gradients over the ranks of a job; how many there are is known when it runs."""
    shards: int = 1
    """Ranks that divide the optimizer's state among them (ZeRO, stage 1); 1: each has all of it."""
    precision: str = "f32"
    """`f32`; `bf16`: bf16 compute with f32 masters and statistics; `f16`: the same in f16, on a GPU, with a loss scale
    that adapts; `int8`: for inference, weights in 8 bits with a scale for each row, and f32 compute.  For inference
    weights are kept in the type named, caches in bf16 at most."""
    recognise: bool = True
    """Replace primitives by composites that are better differentiated whole."""
    fuse: bool = True
    """Merge neighbours into one kernel."""
    remat: str = "none"
    """What the backward pass computes again instead of keeping: `none`; `cheap`, elementwise and row ops; `block`,
    all of every repeated block but its input; `block:N`, so in the first N blocks and cheap in the others;
    `budget=BYTES`, the least of these with which all segments together fit."""
    plan: str = "best"
    """`best` reuses memory; `naive` gives every tensor its own."""
    march: str = "native"
    """Instruction set that the compiler is asked for; `native` is this machine's, for cuda its GPU's."""
    compiler: str = "cc"
    """The C compiler."""
    tune: bool = True
    """Use what `gptc tune` found for this machine; it changes speed, never results."""
    sanitize: bool = False
    """Build with the address and undefined-behaviour sanitizers."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)
