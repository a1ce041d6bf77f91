"""How much memory something takes at most, whatever was done before."""

from __future__ import annotations

from pathlib import Path


class Peak:
    """The most memory that this process has held since this was made."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the most so far (proc(5))
        self.before = self._most()

    def grown(self) -> int:
        """KiB."""
        return self._most() - self.before

    @staticmethod
    def _most() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
