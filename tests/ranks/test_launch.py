"""A process knows whether a launcher has started it as one of several ranks."""

from __future__ import annotations

import pytest

from gptc.runtime.launch import RANK, SIZE, SLURM_STEP, ranks_here

BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
"""What a batch script finds."""


@pytest.mark.parametrize(
    ("variables", "ranks"),
    [
        ({}, None),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 2),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, 1),
        ({"PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, 4),
        (BATCH, None),
        (BATCH | {SLURM_STEP: "0"}, 8),
        (BATCH | {SLURM_STEP: "0", "PMIX_RANK": "3"}, 8),
        (BATCH | {"PMI_RANK": "1", "PMI_SIZE": "2"}, 2),
        (BATCH | {"PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, 4),
    ],
    ids=["none", "mpich", "one", "open mpi", "sbatch", "srun", "srun pmix", "mpich in sbatch", "open mpi in sbatch"],
)
def test_ranks_are_recognised(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], ranks: int | None) -> None:
    for name in (*RANK, *SIZE, *BATCH, SLURM_STEP):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks_here() == ranks
