"""A checkpoint: a folder with all that a run needs to go on to the bit, on any number of ranks.

    manifest.json                         what it is, the run's settings and progress, and the hash of every file
    weights.safetensors                   parameters, whole: what `--weights` takes
    state-00000-of-00001.safetensors      the optimizer's state; one file a rank

State tensors are flat ranges of whole tensors, [start, stop) in elements: one range on one rank, a share each where
ranks share the optimizer's state.  A reader asks for any range, so any number of ranks can read what any other wrote.
Equal states are equal bytes: nothing here knows the time, the machine or the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from gptc.contracts import DTYPES, dtype_name
from gptc.errors import InputError, StorageError
from gptc.runtime.atomic import Written, fresh_folder, write_file
from gptc.runtime.hashing import file_hash
from gptc.runtime.manifest import Extent, Manifest, Name, Shape, Size, State, Strict
from gptc.runtime.model import Model
from gptc.runtime.snapshot import Snapshot, extent, lasting_state, own, shape
from gptc.runtime.tensorfile import pieces
from gptc.runtime.weights import load_weights, weights_metadata
from gptc.runtime.world import ALONE, World

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
Setting = str | int | float | bool | None
MANIFEST_LIMIT = 64 << 20  # bytes; of a 1558M model's some 200 KB
FALL_BACK = "take an earlier one with --resume STEP, or let --resume auto find it"

FileName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}\.safetensors$")]


class FileRecord(Strict):
    """A file of the checkpoint."""

    bytes: Size
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class PartRecord(Strict):
    """Elements [start, stop) of a tensor, in a file's tensor of the same name."""

    file: FileName
    start: Size
    stop: Size


class StateRecord(Strict):
    """A tensor of the optimizer's state: its shape, padding included, and the parts that it is kept in."""

    dtype: Literal["f64", "f32", "bf16", "f16", "i32", "u8"]
    shape: Shape
    parts: tuple[PartRecord, ...]


class CheckpointManifest(Strict):
    """`code` is the hash of the emitted artefact; `settings` and `progress` are the run's."""

    format: Literal[1]
    gptc: str
    model: str
    tokenizer: str
    code: str
    step: Size
    world: Extent
    dims: dict[str, Extent]
    settings: dict[str, Setting]
    progress: dict[str, Any]
    files: dict[FileName, FileRecord]
    state: dict[Name, StateRecord]


@dataclass(frozen=True)
class Moment:
    """What a checkpoint keeps of a run beside the model's tensors: after how many updates, and how it goes on.

    `settings` decided how it came here, as dotted names and their values; `progress` is plain data for JSON.
    """

    step: int
    settings: Mapping[str, Setting]
    progress: Mapping[str, Any]


def write_checkpoint(folder: Path, snapshot: Snapshot, model: Manifest, moment: Moment, world: World = ALONE) -> None:
    """Write a checkpoint into the new folder `folder`: every rank its own state, the first all else, the manifest last.

    Raises OSError, on all ranks if on one; what has been written by then stays for the caller to remove.
    """
    world.first(lambda: fresh_folder(folder))
    files: dict[str, Written] = {}
    for written in world.each(lambda: _write_own(folder, snapshot, model, moment, world)):
        files |= written
    state = {tensor.name: _entry(tensor, model.shards) for tensor in model.state if tensor.name in snapshot.state}
    origin: dict[str, Any] = {"gptc": model.gptc, "model": model.model, "tokenizer": model.tokenizer}
    origin |= {"code": model.hash, "dims": model.dims}
    world.first(lambda: write_manifest(folder, origin, moment, files, state, world.size))


def _write_own(folder: Path, snapshot: Snapshot, model: Manifest, moment: Moment, world: World) -> dict[str, Written]:
    """The files of one rank."""

    def told(parts: Iterator[memoryview | bytes]) -> Iterator[memoryview | bytes]:
        for part in parts:
            world.goes_on()
            yield part

    name = state_file(world.rank, world.size)
    flat = {key: tensor.reshape(-1) for key, tensor in snapshot.state.items() if tensor.size}
    files = {name: write_file(folder / name, told(pieces(flat, {})))}
    if world.leads:
        metadata = weights_metadata(model, moment.step)
        files[WEIGHTS] = write_file(folder / WEIGHTS, told(pieces(snapshot.weights, metadata)))
    return files


def _entry(tensor: State, shards: int) -> dict[str, Any]:
    """The manifest's entry of a state tensor: a part for each rank that has elements of it."""
    ranks = shards if tensor.whole else 1
    extents = [extent(tensor, shards, rank) for rank in range(ranks)]
    parts = [
        {"file": state_file(rank, shards), "start": start, "stop": stop}
        for rank, (start, stop) in enumerate(extents)
        if start < stop
    ]
    return {"dtype": tensor.dtype, "shape": list(tensor.whole or tensor.shape), "parts": parts}


def whole(tensor: NDArray[np.generic], file: str) -> dict[str, Any]:
    """The manifest's entry of a state tensor that is in one file."""
    parts = [{"file": file, "start": 0, "stop": tensor.size}]
    return {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape), "parts": parts}


def state_file(rank: int, world: int) -> str:
    return f"state-{rank:05d}-of-{world:05d}.safetensors"


def write_manifest(
    folder: Path,
    origin: Mapping[str, Any],
    moment: Moment,
    files: Mapping[str, Written],
    state: Mapping[str, Any],
    world: int = 1,
) -> None:
    """The last file of a checkpoint.  It carries a hash of itself, for it cannot be in its own list.

    `origin` has the manifest's `gptc`, `model`, `tokenizer`, `code` and `dims`.
    """
    body = {
        "format": 1, **origin, "step": moment.step, "settings": dict(moment.settings),
        "progress": dict(moment.progress), "world": world,
        "files": {name: asdict(each) for name, each in files.items()}, "state": dict(state),
    }  # fmt: skip
    write_file(folder / MANIFEST, [_spell(body)])


def _spell(body: Mapping[str, Any]) -> bytes:
    """The manifest's one spelling, with the hash of everything else under `sha256`."""
    return _json(dict(body) | {"sha256": hashlib.sha256(_json(body)).hexdigest()})


def _json(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest is sound and whose files have the right lengths."""

    folder: Path
    manifest: CheckpointManifest

    @property
    def step(self) -> int:
        return self.manifest.step

    def verify(self) -> None:
        """Compare every byte with the manifest; raises StorageError at the first file that differs."""
        for name, file in self.manifest.files.items():
            path = self.folder / name
            if _hash(path) != file.sha256:
                raise StorageError.of(f"{path}: damaged: its sha256 is not the manifest's", None, FALL_BACK)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Elements [start, stop) of a state tensor, from whichever files have them."""
        state = self.manifest.state[name]
        dtype = DTYPES[state.dtype]
        if (stop - start) * dtype.itemsize > sum(file.bytes for file in self.manifest.files.values()):
            raise StorageError.of(f"{self.folder}: {name} is larger than the files", None, FALL_BACK)
        out = np.empty(stop - start, dtype)
        done = start
        for part in sorted(state.parts, key=lambda part: part.start):
            low, high = max(part.start, done), min(part.stop, stop)
            if low < high and low == done:
                out[low - start : high - start] = self._part(name, part, low, high)
                done = high
        if done != stop:
            raise StorageError.of(f"{self.folder}: {name} has no element {done}", None, FALL_BACK)
        return out

    def _part(self, name: str, part: PartRecord, low: int, high: int) -> NDArray[Any]:
        path = self.folder / part.file
        expected = self.manifest.state[name].dtype.upper(), [part.stop - part.start]
        try:
            with safe_open(path, "numpy") as file:
                found = file.get_slice(name)
                if (found.get_dtype(), list(found.get_shape())) != expected:
                    raise StorageError.of(f"{path}: {name} is not what {MANIFEST} says", None, FALL_BACK)
                values: NDArray[Any] = found[low - part.start : high - part.start]
                return values
        except (SafetensorError, OSError, ValueError) as error:
            raise StorageError.of(f"{path}: cannot read {name}: {error}", None, FALL_BACK) from None

    def load(self, model: Model) -> None:
        """Put weights and the first rank's state into the model.

        What does not fit is told before the first value is written.
        """
        self._check(model)
        load_weights(model, self.folder / WEIGHTS)
        self.load_state(model, 0)

    def load_state(self, model: Model, rank: int) -> None:
        """Put a rank's state into the model; the same on every rank, unless they divide it."""
        for tensor in lasting_state(model):
            shards = model.artefact.manifest.shards
            values = self.read(tensor.name, *extent(tensor, shards, rank))
            own(model, tensor, rank)[...] = values.reshape(shape(tensor, shards, rank))

    def _check(self, model: Model) -> None:
        ours = {t.name: (t.dtype, t.whole or t.shape) for t in lasting_state(model)}
        theirs = {name: (state.dtype, state.shape) for name, state in self.manifest.state.items()}
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                there, here = _describe(theirs.get(name)), _describe(ours.get(name))
                message = f"{self.folder}: {name} is {there} in the checkpoint, {here} in the model"
                raise InputError.of(message, None, "it was made with another model or another optimizer")


def _describe(signature: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{signature[0]}[{','.join(map(str, signature[1]))}]" if signature else "missing"


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`; its files' bytes are `verify`'s business.

    Raises InputError where there is none, or one of another format; StorageError where it is damaged.
    """
    path = folder / MANIFEST
    try:
        if not path.is_file():
            raise InputError.of(f"{folder}: not a checkpoint (no {MANIFEST})")
        if path.stat().st_size > MANIFEST_LIMIT:
            raise StorageError.of(f"{path}: larger than {MANIFEST_LIMIT >> 20} MiB, not a manifest", None, FALL_BACK)
        manifest = _parse(path.read_bytes(), path)
        for name, file in manifest.files.items():
            size = (folder / name).stat().st_size
            if size != file.bytes:
                raise StorageError.of(f"{folder / name}: {size} bytes; {MANIFEST} says {file.bytes}", None, FALL_BACK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StorageError.of(f"{path.parent}: cannot read the checkpoint: {reason}", None, FALL_BACK) from None
    for name in (WEIGHTS, *(part.file for state in manifest.state.values() for part in state.parts)):
        if name not in manifest.files:
            raise StorageError.of(f"{path}: {name} has no hash", None, FALL_BACK)
    return Checkpoint(folder, manifest)


def _parse(text: bytes, path: Path) -> CheckpointManifest:
    damaged = StorageError.of(f"{path}: damaged: not as it was written", None, FALL_BACK)
    try:
        body = json.loads(text)
        del body["sha256"]
        if body.get("format") != 1:
            raise InputError.of(f"{path}: format {body.get('format')!r}; this gptc reads 1")
        if _spell(body) != text:
            raise damaged
        return CheckpointManifest.model_validate_json(json.dumps(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
        raise damaged from None


def _hash(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot read: {error.strerror}", None, FALL_BACK) from None
