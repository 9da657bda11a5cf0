"""What is served: a network with its pre-processing, and what its inputs and outputs mean."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from kdscale import __version__
from kdscale.data.batches import Pixels
from kdscale.data.manifest import Manifest, SampleSpec
from kdscale.recipe import ModelSpec, ViewSpec

KEY = "kdscale"
"""Under which every format keeps an `About`, as JSON."""


class About(BaseModel):
    """What an exported file says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    creator: str = f"kdscale {__version__}"
    run: str
    model: str
    """student-seed-0, control-seed-0, seed-3, ..."""
    classes: list[str]
    """Name of each logit."""
    sample: SampleSpec
    """What goes in: uint8 pictures (B, channels, height, width), or float32 arrays (B, ...); nothing done to them."""
    network: ModelSpec
    weights: str
    """sha256 of the run's file that these weights are from."""
    dataset: str
    """Fingerprint of the dataset that it was trained on."""
    version: Literal[1] = 1

    def example(self, rows: int) -> Tensor:
        """(rows, *shape) of what goes in, all zeros."""
        kind = torch.uint8 if self.sample.kind == "image" else torch.float32
        return torch.zeros(rows, *self.sample.shape, dtype=kind)


class Served(nn.Module):
    """(B, *shape) raw samples -> (B, C) float32 logits."""

    shift: Tensor
    factor: Tensor

    def __init__(self, network: nn.Module, shift: Tensor, factor: Tensor):
        """Samples less `shift`, times `factor`, go into the network."""
        super().__init__()
        self.network = network
        self.register_buffer("shift", shift)
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x.float() - self.shift) * self.factor)
        return logits


def served(network: nn.Module, manifest: Manifest, normalize: bool) -> Served:
    """A network on the CPU with the pre-processing that it was trained with, view 0."""
    pixels = Pixels(manifest, normalize, ViewSpec(), 0, torch.device("cpu"))
    return Served(network, pixels.shift, pixels.factor).eval()
