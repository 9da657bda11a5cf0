"""Members that are finished already: weights from elsewhere, or from a student of another run, in the place of training."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from kdscale.errors import UserError
from kdscale.models import zoo
from kdscale.pipeline import teachers
from kdscale.pipeline.run import Run
from kdscale.training.done import finished
from kdscale.training.finished import commit_weights


def work(run: Run) -> None:
    """Take the files of teachers.weights as the members, once they are known to fit the model.

    Raises:
        UserError: a file is not there, is no safetensors file, or is of another model.
    """
    settings, shape, classes = run.recipe.teachers, run.manifest.sample.shape, len(run.manifest.classes)
    for seed, name in zip(settings.seeds, settings.weights, strict=True):
        mark = teachers.fingerprint(run, seed)
        if finished(teachers.member_folder(run, seed), mark) is not None:
            continue
        try:
            weights = load_file(Path(name))
            zoo.build(settings.model, shape, classes, 0).load_state_dict(weights)
        except FileNotFoundError:
            raise UserError(f"teachers.weights: there is no file {name}; give those of finished models") from None
        except (OSError, SafetensorError) as error:
            raise UserError(f"teachers.weights: {name} cannot be read ({error}); give a safetensors file") from None
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"teachers.weights: {name} does not fit teachers.model ({reason}); mend either") from None
        commit_weights(
            run.claim(f"teachers/seed-{seed}", mark),
            weights,
            mark,
            seed=seed,
            adopted=name,
            of=teachers.source(run, seed),
        )
