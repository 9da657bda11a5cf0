"""The scripts in slurm/, ready to edit: rendered from the options below.

python -m launcher.slurm.ready    # writes them; a test compares
"""

from dataclasses import replace
from pathlib import Path

from launcher.slurm.options import Options
from launcher.slurm.script import render

RUN = Options(
    recipe="configs/quickstart.yaml",
    run="runs/quickstart",
    nodes=2,
    time="24:00:00",
    sbatch=("--cpus-per-task=8",),
)
SCRIPTS = {
    "run.sbatch": replace(RUN, name="kdscale-run"),
    "teachers.sbatch": replace(RUN, name="kdscale-teachers", verb="teachers", time="04:00:00", requeue=False),
    "student.sbatch": replace(RUN, name="kdscale-student", verb="student", time="04:00:00", requeue=False),
}


def write(folder: Path) -> None:
    for name, options in SCRIPTS.items():
        (folder / name).write_text(render(options))


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[2] / "slurm")
