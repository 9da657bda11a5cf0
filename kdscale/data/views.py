"""Views: augmentations that need no storage.

What happens to a sample is drawn from a counter-based generator keyed by (seed, key, view), so whoever asks for
view 7 of a key sees the same pixels: teachers that label it and students that learn from it ("consistent
teaching", Beyer et al. 2022). View 0 is the plain sample. The draws are made on the CPU, a few numbers a sample;
the pixels are moved where the batch is.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdscale.recipe import ViewSpec
from kdscale.seeds import uniforms

_DRAWS = 5


def make(
    x: Tensor, spec: ViewSpec, seed: int | NDArray[np.uint64], ids: NDArray[np.uint64], views: NDArray[np.int64]
) -> Tensor:
    """The views of a batch of images.

    Args:
        x: (B, C, H, W), any dtype, any device.
        seed: one for the batch, or (B,) where rows belong to several members.
        ids: (B,) the samples' ids.
        views: (B,) view numbers; rows with view 0 come back unchanged.

    Returns:
        A tensor like `x`.
    """
    if spec.changes_nothing or not views.any():
        return x
    draws = uniforms(seed, ids, views, _DRAWS)
    changed = views > 0
    if spec.rotate or spec.scale:
        angle = np.where(changed, (2 * draws[:, 3] - 1) * np.deg2rad(spec.rotate), 0.0)
        zoom = np.where(changed, 1 + (2 * draws[:, 4] - 1) * spec.scale, 1.0)
        x = _turn(x, angle, zoom)
    if spec.flip:
        mirrored = torch.from_numpy(changed & (draws[:, 2] < 0.5)).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    if spec.jitter:
        span = 2 * spec.jitter + 1
        shifts = np.where(changed[:, None], np.floor(draws[:, :2] * span).astype(np.int64) - spec.jitter, 0)
        x = _shift(x, torch.from_numpy(shifts).to(x.device), spec.jitter)
    return x


def _shift(x: Tensor, shifts: Tensor, most: int) -> Tensor:
    """Move each image by its (dy, dx) pixels; zeros come in at the edges."""
    batch, channels, height, width = x.shape
    padded = torch.nn.functional.pad(x, (most, most, most, most)).flatten(2)
    rows = torch.arange(height, device=x.device)[None, :] + most - shifts[:, :1]
    columns = torch.arange(width, device=x.device)[None, :] + most - shifts[:, 1:]
    places = (rows[:, :, None] * (width + 2 * most) + columns[:, None, :]).flatten(1)
    moved = padded.gather(2, places[:, None, :].expand(batch, channels, height * width))
    return moved.view(batch, channels, height, width)


def _turn(x: Tensor, angle: NDArray[np.float64], zoom: NDArray[np.float64]) -> Tensor:
    """Rotate and scale each image about its centre, bilinear, zeros outside; integer images are rounded."""
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    zero = np.zeros_like(cos)
    affine = np.stack([np.stack([cos, -sin, zero], -1), np.stack([sin, cos, zero], -1)], 1)
    theta = torch.from_numpy(affine).to(x.device, torch.float32)
    grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    turned = torch.nn.functional.grid_sample(x.float(), grid, align_corners=False)
    return turned.to(x.dtype) if x.is_floating_point() else turned.round().to(x.dtype)
