"""What `gptc tune` found, kept per machine: `<cache>/tuning/<machine>.json`.

A machine is its processor, how many cores of it may be used, and the instruction set that kernels use of it.
Losing the file loses speed and nothing else: whatever is wrong with it, the kernels' defaults serve.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gptc.errors import StorageError
from gptc.runtime.atomic import replacing
from gptc.runtime.hashing import content_hash
from gptc.runtime.machine import cores
from gptc.runtime.toolchain import cpu_name, host_cpu

FORMAT = 1
FOLDER = "tuning"

log = logging.getLogger(__name__)
Choices = dict[str, dict[str, int]]
"""Kernel signature -> the values to use."""


class TuningFile(BaseModel):
    """The file as it lies there."""

    model_config = ConfigDict(strict=True, frozen=True)

    format: int
    machine: str
    """Hash of the machine, so that a file that was copied is not mistaken for this one's."""
    cpu: str
    """For people."""
    choices: Choices


@dataclass(frozen=True)
class Tuning:
    """What is known of this machine; `remark` says why it is nothing, where there is something to say."""

    choices: Choices = field(default_factory=dict)
    remark: str = ""


def load_tuning(root: Path, instructions: str) -> Tuning:
    """What was found for this machine and instruction set, below the cache's folder."""
    path = _path(root, instructions)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        others = sorted((root / FOLDER).glob("*.json"))
        return Tuning(remark="tuned for other machines, not for this one" if others else "")
    except OSError as error:
        log.warning("%s: cannot read: %s; kernels keep their defaults", path, error.strerror)
        return Tuning()
    try:
        found = TuningFile.model_validate_json(text)
    except ValidationError:
        log.warning("%s: damaged; kernels keep their defaults until gptc tune writes it anew", path)
        return Tuning()
    if found.format != FORMAT:
        return Tuning(remark=f"tuned by another version of gptc (format {found.format}, not {FORMAT})")
    if found.machine != _machine(instructions):
        return Tuning(remark=f"{path.name} was tuned on another machine ({found.cpu}) and is ignored")
    return Tuning(found.choices)


def save_tuning(root: Path, instructions: str, choices: Mapping[str, Mapping[str, int]]) -> Path:
    """Add to what is known of this machine; returns the file."""
    path = _path(root, instructions)
    known = load_tuning(root, instructions).choices | {key: dict(point) for key, point in choices.items()}
    cpu = f"{cores()} cores of {cpu_name() or 'an unnamed processor'}, {instructions}"
    data = TuningFile(format=FORMAT, machine=_machine(instructions), cpu=cpu, choices=dict(sorted(known.items())))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.of(f"{path}: cannot write: {error.strerror}", None, "choose GPTC_CACHE_DIR") from None
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data.model_dump(), indent=1) + "\n", encoding="utf-8")
    return path


def _machine(instructions: str) -> str:
    return content_hash("machine", host_cpu(), cores(), instructions)


def _path(root: Path, instructions: str) -> Path:
    return root / FOLDER / f"{_machine(instructions)[:16]}.json"
