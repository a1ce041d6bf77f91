"""The course of a run as TensorBoard reads it: a file `events.out.tfevents.*` in the run's folder.

tensorboardX makes the records.  They are not written by its thread: a full disk must not stop a run.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

from gptc.errors import ToolMissing
from gptc.runtime.atomic import append
from gptc.runtime.events import Evaluation, Event, Sample, Score, Step

try:
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2, summary_pb2
    from tensorboardX.record_writer import masked_crc32c
except ImportError as missing:
    message = f"--tensorboard needs tensorboardX: {missing}"
    raise ToolMissing.of(message, None, "run: pip install 'gptc[tensorboard]'") from None

VERSION = "brain.Event:2"


class TensorBoard:
    """One file for each process that took the run on.  Raises OSError where the disk does not take a record."""

    def __init__(self, folder: Path, step: int) -> None:
        """What other files say of the run after `step` updates no longer holds."""
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._add(0, file_version=VERSION)
        self._add(step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, event: Event) -> None:
        match event:
            case Step():
                values = {
                    "train/loss": event.loss, "train/norm": event.norm, "train/lr": event.lr,
                    "train/tokens_per_second": event.tokens_per_second,
                }  # fmt: skip
                self._add(event.step, summary=_scalars(values))
            case Evaluation():
                self._add(event.step, summary=_scalars({"val/loss": event.loss}))
            case Score():
                self._add(event.step, summary=_scalars({"val/accuracy": event.accuracy}))
            case Sample():
                self._add(event.step, summary=summary.text("sample", event.text.encode(errors="replace").decode()))

    def _add(self, step: int, **content: Any) -> None:
        """Framed as TFRecord: length, its checksum, the record, its checksum."""
        record = event_pb2.Event(wall_time=time.time(), step=step, **content).SerializeToString()
        length = struct.pack("<Q", len(record))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, record)]
        append(self._path, length + checks[0] + record + checks[1])


def _scalars(values: dict[str, float]) -> Any:
    found = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return summary_pb2.Summary(value=found)
