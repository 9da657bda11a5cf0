"""A finished job's model: its weights committed, and loaded again to predict."""

import functools
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdscale.errors import UserError
from kdscale.files import sha256, written_aside
from kdscale.models import zoo
from kdscale.recipe import ModelSpec
from kdscale.training.done import WEIGHTS, mark
from kdscale.training.engine import in_format, place


def commit_weights(folder: Path, weights: dict[str, Tensor], fingerprint: str, **facts: object) -> str:
    """Write a job's finished weights and then the mark that says so; the sha256 of the weights."""
    with written_aside(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    return mark(folder, fingerprint, **facts)


class Predictor:
    """A finished model as a function from samples to logits."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.format = place(model, device)
        self.model = model.eval()

    def __call__(self, x: Tensor) -> Tensor:
        """(B, *shape) float32 -> (B, C) logits."""
        logits: Tensor = self.model(in_format(x, self.format))
        return logits


@functools.lru_cache(maxsize=8)
def load_predictor(
    folder: Path, checksum: str, spec: str, shape: tuple[int, ...], classes: int, device: torch.device
) -> Predictor:
    """The model in a job's folder; `spec` is its ModelSpec as JSON, `checksum` the sha256 its weights must have.

    Raises:
        UserError: the weights are missing, were changed, or belong to another model.
    """
    path = folder / WEIGHTS
    if not path.exists() or sha256(path) != checksum:
        raise UserError(f"{path}: missing or changed since training; remove {folder} and run the command again")
    model = zoo.build(ModelSpec.model_validate_json(spec), shape, classes, 0)
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise UserError(f"{path}: not the weights of this model ({str(error).splitlines()[0]})") from None
    return Predictor(model, device)
