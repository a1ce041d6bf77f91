"""Passes: one a file, the file named after the pass.  The pipelines below are the only place that orders them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gptc.errors import InputError, UsageError, did_you_mean
from gptc.ir.graph import Graph
from gptc.options import Options
from gptc.passes.bucket import Bucket
from gptc.passes.cache import Cache, obstacle
from gptc.passes.copies import Copies
from gptc.passes.differentiate import Differentiate
from gptc.passes.fuse import Fuse
from gptc.passes.group import Group
from gptc.passes.layout import Layout
from gptc.passes.losses import Losses
from gptc.passes.lower import Lower
from gptc.passes.manager import Context, Pass, run_pipeline
from gptc.passes.memory import Memory
from gptc.passes.narrow import Narrow
from gptc.passes.precision import Precision
from gptc.passes.quantise import Quantise
from gptc.passes.recognise import Recognise
from gptc.passes.remat import Remat
from gptc.passes.schedule import Schedule
from gptc.passes.shard import Shard
from gptc.passes.simplify import Simplify
from gptc.passes.store import Store
from gptc.passes.update import Part, Update

Pipeline = tuple[Pass, ...]

EPILOGUE = 24
"""Most flops an element behind a product on a GPU, whose tensor cores wait for them: GELU yes, its gradient no."""
SUMS = 4096
"""Most columns whose sums the threads of a block on a GPU keep while they go through rows."""

GPU_BUCKET = 128_000_000
"""Bytes that travel together between GPUs: an exchange takes multiprocessors from the products beside it, each of which
waits for all of its blocks, so a few large ones cost less than many.  On two H200 a step of GPT-2 124M, B 32, T 1024,
takes 56.4, 55.9, 55.6, 55.7 and 55.9 ms with buckets of 25, 64, 128, 256 and 600 MB."""

PASSES: dict[str, type[Pass]] = {
    cls.name: cls
    for cls in (
        Simplify, Recognise, Losses, Cache, Quantise, Differentiate, Precision, Copies, Store, Update, Layout, Remat,
        Shard, Bucket, Lower, Fuse, Narrow, Group, Schedule, Memory,
    )
}  # fmt: skip
"""Every pass by name."""


class Training(Protocol):
    """What the pipelines need to know about how a model is trained."""

    @property
    def optimizer(self) -> str: ...
    @property
    def rates(self) -> Mapping[str, float]: ...
    @property
    def clip(self) -> float: ...
    @property
    def master_weights(self) -> bool: ...
    @property
    def rounding(self) -> str: ...


PREFILL = 64
"""Tokens of a prompt that one call of `prefill` takes: enough to use a weight often, few enough for short prompts."""


def pipelines(options: Options, training: Training, caches: bool = False) -> dict[str, Pipeline]:
    """Program -> its passes.  Programs start from the graph of the model: with its loss, or for inference without.

    `caches` is the answer of `can_cache`: whether inference computes token by token or all that came before anew.

    Memory is not in the lists: `plan_programs` plans all programs of an artefact together.
    """
    check(options, training)
    stored = stores(options, training)
    copied = options.precision in ("bf16", "f16") and not stored
    refresh = {"refresh": refresh_copies(options, training)} if copied else {}
    if options.mode == "infer":
        if not caches:
            return {"logits": forward(options, stored), **refresh}
        prefill, decode = generation(options, min(PREFILL, options.seq)), generation(options, 1)
        return {"prefill": prefill, "decode": decode, **refresh}
    if options.micro_steps == 1:
        step = train(options, optimizer("step", options, training), stored)
        return {"step": step, "evaluate": evaluate(options, stored), **refresh}
    apply = optimizer("apply", options, training)
    return {
        "micro_step": train(options, optimizer("collect", options, training), stored),
        "update": (*recognise(options), *round_off(options, stored), apply, *exchange(options), *kernels(options)),
        "evaluate": evaluate(options, stored),
        **refresh,
    }


def check(options: Options, training: Training) -> None:
    """Refuse what a precision cannot do."""
    if options.mode != "train" or options.precision == "bf16":
        return
    for asked, setting in (
        (not training.master_weights, "master_weights: false"),
        (training.rounding == "stochastic", "rounding: stochastic"),
    ):
        if asked:
            message = f"train.{setting} is of weights in bf16, and --precision is {options.precision}"
            raise InputError.of(message, None, "compile with --precision bf16, or leave the setting out")


def can_cache(graph: Graph, options: Options, context: Context) -> bool:
    """Whether the model computes token by token from kept keys and values.  A remark says why not."""
    found = obstacle(run_pipeline(graph, recognise(options), Context(options)))
    if found:
        node, why = found
        context.missed("cache", node, f"{why}: generation computes all earlier tokens anew for each new one")
    return not found


def named(programs: Mapping[str, Pipeline], wanted: str | None) -> dict[str, Pipeline]:
    """The programs that have a pass of that name; all of them for None."""
    if wanted is None:
        return dict(programs)
    found = {name: passes for name, passes in programs.items() if any(p.name == wanted for p in passes)}
    if not found:
        known = list(dict.fromkeys(p.name for passes in programs.values() for p in passes))
        hint = did_you_mean(wanted, known) or f"there are {', '.join(known)}"
        raise UsageError.of(f"no program has a pass {wanted!r}", hint=hint)
    return found


def train(options: Options, update: Update, stored: bool) -> Pipeline:
    """From a model to the gradients of its loss and what becomes of them."""
    return (
        *recognise(options),
        Differentiate(
            1 / options.micro_steps, scaled=options.precision == "f16"
        ),  # before precision: derivatives are of the mathematical graph
        *round_off(options, stored),
        update,  # before simplify: the gradients of a tied parameter meet in one scatter
        *compute(options, (*rematerialise(options.remat), *exchange(options))),
    )


def evaluate(options: Options, stored: bool) -> Pipeline:
    """From a model to its loss, mean and at every position."""
    return (Losses(), *forward(options, stored))  # before recognise: it looks for the model's own cross entropy


def forward(options: Options, stored: bool) -> Pipeline:
    """From a model to its loss or its logits."""
    return (*recognise(options), *round_off(options, stored), *compute(options))


def generation(options: Options, tokens: int) -> Pipeline:
    """From a model to the logits after the next few tokens."""
    kept = "bf16" if options.precision == "int8" else options.precision
    caches = Cache(tokens, kept)  # after recognise, which finds attention; before layout, which folds what it reads
    return (*recognise(options), caches, *round_off(options, stored=options.target == "c"), *compute(options))


def refresh_copies(options: Options, training: Training) -> Pipeline:
    """From a model to the copies of its parameters that the other programs read in their place."""
    rounding = training.rounding if options.mode == "train" else "nearest"
    return (*recognise(options), Precision(options.precision), Copies("refresh", rounding), *kernels(options))


def recognise(options: Options) -> Pipeline:
    """From a model to one that is better differentiated."""
    composites = (Recognise(),) if options.recognise else ()
    return (
        Simplify(),  # before recognise: its patterns are of simplified graphs
        *composites,  # before differentiate: composites have better gradients than their parts
    )


def round_off(options: Options, stored: bool) -> Pipeline:
    """From exact numbers to those that kernels read and store; `stored` is the answer of `stores`."""
    quantise = (Quantise(),) if options.precision == "int8" else ()
    return (
        *quantise,  # before precision: nothing else reads whole numbers
        Precision(options.precision),  # before layout and fuse: they must see where values are rounded
        Store() if stored else Copies(),  # before update, which writes copies: no step casts a parameter
    )


def stores(options: Options, training: Training) -> bool:
    """Whether nothing needs the parameters themselves, only what products read of them."""
    if options.mode == "infer":
        return options.target == "c"
    return options.precision == "bf16" and not training.master_weights


def compute(options: Options, backward: Pipeline = ()) -> Pipeline:
    """From mathematics to kernels in order; `backward` is for graphs that have gradients."""
    return (
        Simplify(),  # after differentiate, update and precision, which write plainly
        Layout(),  # before lower: regions read through views
        *backward,  # after layout: a view costs nothing to keep; after simplify, which computes equal nodes once
        *kernels(options),
    )


def kernels(options: Options) -> Pipeline:
    """From primitives to kernels in order."""
    cuda = options.target == "cuda"
    fuse = (Fuse(epilogue=EPILOGUE, sums=SUMS) if cuda else Fuse(),) if options.fuse else ()
    narrow = (Narrow(options.precision), Group()) if cuda else ()
    return (
        Lower(),  # before fuse: every primitive becomes a region, whether it is fused or not
        *fuse,  # before schedule: it decides what the nodes are
        *narrow,  # after fuse: what is not stored is not rounded; a launch is dear on a GPU alone
        Schedule(),  # last: memory is planned for this order
    )


def rematerialise(level: str) -> Pipeline:
    """The pass of a level: `none`, `cheap`, `block` or `block:N`."""
    if level == "none":
        return ()
    kind, _, count = level.partition(":")
    return (Remat(0 if kind == "cheap" else int(count) if count else None),)


def exchange(options: Options) -> Pipeline:
    """What ranks send each other; nothing for a job of one."""
    bucket = Bucket(GPU_BUCKET) if options.target == "cuda" else Bucket()
    # Before bucket: shares travel in other buckets than means.
    return (Shard(options.shards), bucket) if options.ranks else ()


def optimizer(part: Part, options: Options, training: Training) -> Update:
    """The update that `training` asks for."""
    return Update(
        part, training.optimizer, clip=training.clip, rounding=training.rounding, scaled=options.precision == "f16",
        ranks=options.ranks, **training.rates,
    )  # fmt: skip
