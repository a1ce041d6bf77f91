"""llm.c's pair of model and optimizer state as a checkpoint of gptc, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptc import __version__
from gptc.errors import InputError
from gptc.runtime.atomic import fresh_folder, make_folder, write_file
from gptc.runtime.checkpoint import WEIGHTS, Checkpoint, Moment, state_file, whole, write_manifest
from gptc.runtime.interop import llmc
from gptc.runtime.interop.gpt2 import Gpt2, Tensors, gpt2, metadata, read_weights
from gptc.runtime.tensorfile import pieces

MOMENTS = ("m", "v")
FIRST_RNG = 13371337
"""State of llm.c's generator for stochastic rounding at the first step."""


def read_pair(model: Path, state: Path) -> tuple[Gpt2, llmc.State, int]:
    """Model, optimizer state, and the rows of the padded vocabulary.  f32 masters replace the model's own weights."""
    found, rows = llmc.read_model(model), llmc.rows_of(model)
    moments = llmc.read_state(state, llmc.parameter_count(found.sizes, rows))
    tensors = found.tensors
    if moments.master is not None:
        tensors = llmc.split(moments.master, found.sizes, rows, state)
    return gpt2(found.sizes, tensors, found.tokenizer, model, moments.step), moments, rows


def write_checkpoint(folder: Path, model: Gpt2, moments: llmc.State, rows: int) -> None:
    """A checkpoint without settings and position in the data, which llm.c's files do not have in a form of ours."""
    fresh_folder(folder)
    shapes = model.sizes.shapes() | {"wte": (rows, model.sizes.channels)}
    state: dict[str, NDArray[np.float32]] = {}
    for suffix, flat in zip(MOMENTS, (moments.m, moments.v), strict=True):
        parts = llmc.split(flat, model.sizes, rows, folder)
        parts["wte"] = np.pad(parts["wte"], ((0, rows - len(parts["wte"])), (0, 0)))
        state |= {f"{name}.{suffix}": parts[name] for name in shapes}
    name = state_file(0, 1)
    files = {
        WEIGHTS: write_file(folder / WEIGHTS, pieces(model.tensors, metadata(model))),
        name: write_file(folder / name, pieces({key: part.reshape(-1) for key, part in state.items()}, {})),
    }
    origin: dict[str, Any] = {"gptc": __version__, "model": "gpt2", "dims": model.sizes.dims}
    origin |= {"tokenizer": model.tokenizer or "", "code": ""}
    moment = Moment(moments.step, {}, {"step": moments.step, "loss": None})
    write_manifest(folder, origin, moment, files, {key: whole(part, name) for key, part in state.items()})


def write_pair(checkpoint: Checkpoint, folder: Path, dtype: str) -> tuple[Path, Path]:
    """`model_<step>.bin` and `state_<step>_00000.bin`, as llm.c names them; with bf16, f32 masters stand in the state.

    llm.c goes on from them at the beginning of its data, which it reads in the order of the files.
    """
    model = read_weights(checkpoint.folder)
    state = checkpoint.manifest.state
    expected = {f"{name}.{suffix}" for name in model.sizes.shapes() for suffix in MOMENTS}
    if state.keys() != expected:
        odd = min(state.keys() ^ expected)
        raise InputError.of(f"{checkpoint.folder}: {odd}: llm.c's state is that of AdamW, moments m and v")
    rows = state["wte.m"].shape[0]
    flat = [_flat(_moments(checkpoint, suffix, model), model, rows) for suffix in MOMENTS]
    master = None if dtype == "f32" else _flat(model.tensors, model, rows)
    make_folder(folder)
    paths = folder / f"model_{checkpoint.step:08d}.bin", folder / f"state_{checkpoint.step:08d}_00000.bin"
    llmc.write_model(paths[0], model, dtype, rows)
    rng = FIRST_RNG
    llmc.write_state(paths[1], llmc.State(1, 0, checkpoint.step, rng, rng, 0, 0, flat[0], flat[1], master, None))
    return paths


def _moments(checkpoint: Checkpoint, suffix: str, model: Gpt2) -> Tensors:
    found = {}
    for name, shape in model.sizes.shapes().items():
        held = checkpoint.manifest.state[f"{name}.{suffix}"].shape
        size = int(np.prod(held))
        found[name] = checkpoint.read(f"{name}.{suffix}", 0, size).reshape(held)[: shape[0]]
    return found


def _flat(tensors: Tensors, model: Gpt2, rows: int) -> NDArray[np.float32]:
    return np.concatenate([part.reshape(-1) for part in llmc.join(tensors, model.sizes, rows)])
