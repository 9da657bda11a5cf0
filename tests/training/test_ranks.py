"""What launchers say in the environment."""

import pytest

from kdscale.training.ranks import Found, find


@pytest.mark.parametrize(
    ("environment", "there"),
    [
        ({}, None),
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, None),  # the batch step itself
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "1234"},
            Found(3, 4, 1, "node7", 1234),
        ),
        (
            {
                "SLURM_PROCID": "5",
                "SLURM_STEP_NUM_TASKS": "8",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_NODELIST": "gpu-a[07-08,11]",
                "SLURM_JOB_ID": "123456",
            },
            Found(5, 8, 1, "gpu-a07", 20000 + 123456 % 20000),
        ),
        (
            {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "a,b[1-2]", "MASTER_PORT": "99"},
            Found(1, 2, 0, "a", 99),
        ),
    ],
)
def test_what_a_launcher_says_is_found(environment: dict[str, str], there: Found | None) -> None:
    assert find(environment) == there
