"""Where a run begins: at a checkpoint, if it is still the same run, at given weights, or at random ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from gptc.errors import InputError
from gptc.runtime.checkpoint import Checkpoint, Setting, open_checkpoint
from gptc.runtime.data import Data
from gptc.runtime.history import History, verified
from gptc.runtime.init import SEED, initialise
from gptc.runtime.model import Model
from gptc.runtime.progress import Progress, restore
from gptc.runtime.weights import load_weights
from gptc.runtime.world import ALONE, World

CODE = "code"
"""The setting that stands for the emitted code, where nothing else tells why it differs."""
FREE = ("ranks", "options.ranks", "options.shards")
"""Settings that may always differ: any number of ranks goes on from a checkpoint of any other."""
SHOWN, NAMED = 20, 6
MAX_DIGITS = 18


def require_same(checkpoint: Checkpoint, code: str, settings: Mapping[str, Setting], allowed: Collection[str]) -> None:
    """The run that made the checkpoint had these settings, but for those that are allowed to change.

    `allowed` holds names, or what stands before a dot in some (`train`), or `all`.  Raises InputError that shows
    every other difference.
    """
    before = checkpoint.manifest.settings
    differing = [name for name in sorted(before.keys() | settings.keys()) if before.get(name) != settings.get(name)]
    if not differing and checkpoint.manifest.code != code:
        differing, before, settings = [CODE], {CODE: checkpoint.manifest.code}, {CODE: code}
    refused = [name for name in differing if name not in FREE and _accepting(name).isdisjoint(allowed)]
    if not refused:
        return
    if not before:
        message = f"{checkpoint.folder}: imported, so nothing is known of the settings that it was made with"
        raise InputError.of(message, None, "--allow-change all goes on with those of now")
    notes = [f"{name}: {_spell(before, name)} in the checkpoint, {_spell(settings, name)} now" for name in refused]
    if refused == [CODE]:
        notes.append("the same model, emitted by another gptc or for another machine: results may differ in their bits")
    if len(notes) > SHOWN:
        notes[SHOWN:] = [f"and {len(notes) - SHOWN} more"]
    accepting = ",".join(refused) if len(refused) <= NAMED else "all"
    hint = f"--allow-change {accepting} goes on with what is new"
    raise InputError.of(f"{checkpoint.folder}: made with other settings", None, hint, *notes)


def _accepting(name: str) -> set[str]:
    """What may be written to allow a change of `name`."""
    parts = name.split(".")
    return {"all", *(".".join(parts[:end]) for end in range(1, len(parts) + 1))}


def _spell(settings: Mapping[str, Setting], name: str) -> str:
    return repr(settings[name]) if name in settings else "absent"


@dataclass(frozen=True)
class Start:
    """`resume` is what `find` takes, `allowed` what `require_same` takes; without a checkpoint, `weights` or a seed."""

    resume: str | None = None
    allowed: frozenset[str] = frozenset()
    weights: Path | None = None
    seed: int = SEED


def begin(
    start: Start,
    model: Model,
    data: Data,
    history: History,
    settings: Mapping[str, Setting],
    report: Callable[[str], None] = lambda message: None,
    world: World = ALONE,
) -> Progress:
    """Give the model the tensors that the run begins with; on the first rank, the others `follow`.

    Raises InputError where that would begin a second run over the checkpoints of a first.
    """
    checkpoint = find(start.resume, history, report) if start.resume else None
    if checkpoint is None:
        if steps := history.steps():
            which = "none of them is sound" if start.resume else f"the newest is of step {steps[-1]}"
            hint = "choose another --run" if start.resume else "--resume auto goes on from it; or choose another --run"
            raise InputError.of(f"{history.folder}: there are checkpoints here; {which}", None, hint)
        if start.weights:
            load_weights(model, start.weights)
        else:
            initialise(model, start.seed)
        world.tell("")
        return Progress()
    require_same(checkpoint, model.artefact.manifest.hash, settings, start.allowed)
    progress = restore(checkpoint, model, data.train, other_data=not start.allowed.isdisjoint({"data", "all"}))
    report(f"going on from {checkpoint.folder}")
    leave_behind(history, checkpoint.step, report)
    world.tell(str(checkpoint.folder))
    return progress


def follow(model: Model, world: World) -> None:
    """What `begin` is on the other ranks: each takes its own state, where they divide it, from the same checkpoint."""
    folder = world.tell("")
    if folder and model.artefact.manifest.shards > 1:
        open_checkpoint(Path(folder)).load_state(model, world.rank)


def find(where: str, history: History, report: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint that `--resume` names, every byte of it compared with its hash.

    `auto`: the newest sound one of `history`, or None where there is none.  A number: the one of that step.
    Anything else: the folder of a checkpoint, of any run.
    """
    if where == "auto":
        return history.newest(report)
    if where.isdecimal() and len(where) <= MAX_DIGITS:
        return history.verified(int(where))
    return verified(Path(where))


def leave_behind(history: History, step: int, report: Callable[[str], None]) -> None:
    """Checkpoints after `step` belong to a course that is not taken again: they get another name."""
    for later in history.steps():
        if later > step and (aside := history.set_aside(later)):
            report(f"the checkpoint of step {later} is now {aside.name}")
