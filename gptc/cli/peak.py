"""What this machine can multiply at most, and what a model asks of it: the two sides of MFU."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gptc.codegen.probes import cpu_probe, gpu_probe
from gptc.codegen.target import target_for
from gptc.errors import StorageError
from gptc.options import Options
from gptc.runtime.artefact import Artefact
from gptc.runtime.atomic import replacing
from gptc.runtime.cache import default_root
from gptc.runtime.gpu_probe import GpuProbe
from gptc.runtime.hashing import content_hash
from gptc.runtime.machine import Neighbours, warning
from gptc.runtime.manifest import Build
from gptc.runtime.probe import Probe
from gptc.runtime.profile import calls_of

FOLDER = "peaks"
BACKWARD = 2
"""Times the operations of the forward pass: each product of it has two for its gradients."""


def build_probe(options: Options, build: Build) -> Probe | GpuProbe:
    """The probes of what a model runs on, built with its compiler and flags."""
    target = target_for(options)
    if target.cpu is None:
        source = gpu_probe(target)
        return GpuProbe(source.files, source.side, build)
    return Probe(cpu_probe(target), build)


def flops_per_token(artefact: Artefact) -> float | None:
    """What learning from a token takes: the operations of `evaluate`, once forward and twice backward.

    For a GPT-2 that is llm.c's 6 N + 6 L C T; nothing that is only computed again counts.  None without `evaluate`.
    """
    if not artefact.has_program("evaluate"):
        return None
    forward = sum(call.flops for call in calls_of(artefact)["evaluate"])
    dims = artefact.manifest.dims
    return (1 + BACKWARD) * forward / (dims["B"] * dims["T"])


def peak_flops(options: Options, build: Build) -> float | None:
    """FLOP/s of this process's threads or GPU, in the precision that products have; None on a GPU without room for it.

    Measured once, and kept beside the cache.  What others disturb is less than the peak: then it is measured again the
    next time, and the most that was ever seen counts.
    """
    probe = build_probe(options, build)
    if isinstance(probe, GpuProbe) and not probe.fits:
        return None
    dtype = "bf16" if options.precision in ("bf16", "f16") and probe.has_bf16 else "f32"
    path = default_root() / FOLDER / f"{content_hash(probe.identity, probe.threads, dtype)}.json"
    known = _read(path)
    if known.quiet:
        return known.flops
    neighbours = Neighbours()
    flops = max(known.flops, 1e9 * probe.gflops(dtype))
    quiet = warning(neighbours.cores()) is None
    with suppress(OSError, StorageError):  # then it is measured again
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(_Peak(flops, quiet))))
    return flops


@dataclass(frozen=True)
class _Peak:
    """The most that was measured, and whether nothing disturbed it."""

    flops: float = 0.0
    quiet: bool = False


def _read(path: Path) -> _Peak:
    """What is known; whatever is wrong with the file, measuring again mends it."""
    try:
        found = json.loads(path.read_bytes())
        known = _Peak(float(found["flops"]), found["quiet"] is True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return _Peak()
    return known if 0 < known.flops < math.inf else _Peak()
