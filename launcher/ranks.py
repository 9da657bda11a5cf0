"""Students on ranks that torchrun, the deepspeed launcher or srun has started:

    torchrun --nproc-per-node 8 -m launcher.ranks RECIPE [section.field=value ...]
    deepspeed --no_local_rank --module launcher.ranks RECIPE
    srun --ntasks 16 python -m launcher.ranks RECIPE

The same as `kdscale student RECIPE --ranks env`. All processes do this; the number of ranks is the launcher's.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

from kdscale.errors import UserError


def train(path: str, overrides: list[str] | None, out: Path | None) -> None:
    """Join the ranks that are there and train what is missing of a recipe's students.

    Raises:
        UserError: no launcher has started this process, or the run is not ready for students.
        Stopped: a signal came.
    """
    from kdscale import recipe_files as recipes
    from kdscale.pipeline import joined
    from kdscale.pipeline import run as runs
    from kdscale.training import ranks

    there = ranks.find(os.environ)
    if there is None:
        raise UserError(
            "--ranks env: no ranks are there; start it by torchrun, deepspeed or srun, or leave --ranks out"
        )
    recipe = recipes.load(path, [*(overrides or []), f"student.workers={there.ranks}"])
    folder = (out or Path("runs") / recipe.name).resolve()
    run = runs.Run(folder, recipe)
    ranks.join_found(there, bool(joined.gpus(run)))
    first = there.rank == 0
    with runs.only_driver(folder) if first else nullcontext():
        failure: UserError | None = None
        if first:
            try:
                run, _ = runs.open_run(folder, recipe)
                joined.check(run)
            except UserError as error:
                failure = error
        if not ranks.all_well(failure is None):
            if failure is not None:
                raise failure
            sys.exit(2)  # rank 0 says why
        joined.train(run, lambda line: print(line, file=sys.stderr, flush=True))
    ranks.leave()


if __name__ == "__main__":
    from launcher.cli import main

    sys.argv[1:] = ["student", *sys.argv[1:], "--ranks", "env"]
    main()
