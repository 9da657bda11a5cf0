"""Residual networks for small pictures.

`resnet` is the CIFAR form of He et al. 2016 (depth 6n + 2); `wide_resnet` that of Zagoruyko & Komodakis 2016
(depth 6n + 4, pre-activation, WRN-28-10 being depth 28, width 10).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from kdscale.errors import UserError


def resnet(shape: tuple[int, ...], classes: int, depth: int = 20, width: int = 16) -> nn.Module:
    """He et al.'s CIFAR network: a 3x3 stem and three stages of (depth - 2) / 6 blocks."""
    blocks = _blocks("resnet", shape, depth, 2)
    widths = [width, width, 2 * width, 4 * width]
    stages = [_stage(_PostBlock, a, b, blocks, 1 if i == 0 else 2) for i, (a, b) in enumerate(pairwise(widths))]
    stem = [_conv(shape[0], width), nn.BatchNorm2d(width), nn.ReLU()]
    return _initialised(nn.Sequential(*stem, *stages, *_head(widths[-1], classes)))


def wide_resnet(
    shape: tuple[int, ...], classes: int, depth: int = 28, width: int = 10, dropout: float = 0.0
) -> nn.Module:
    """Zagoruyko & Komodakis' WRN-depth-width: three pre-activation stages of 16, 32 and 64 times `width` channels."""
    blocks = _blocks("wide_resnet", shape, depth, 4)
    widths = [16, 16 * width, 32 * width, 64 * width]
    stages = [_stage(_PreBlock, a, b, blocks, 1 if i == 0 else 2, dropout) for i, (a, b) in enumerate(pairwise(widths))]
    norm = [nn.BatchNorm2d(widths[-1]), nn.ReLU()]
    return _initialised(nn.Sequential(_conv(shape[0], 16), *stages, *norm, *_head(widths[-1], classes)))


class _PostBlock(nn.Module):
    """conv, norm, ReLU, conv, norm, add, ReLU; a narrower input is subsampled and padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.stride, self.extra = stride, outputs - inputs
        self.conv1, self.norm1 = _conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.extra))
        return torch.relu(y + shortcut)


class _PreBlock(nn.Module):
    """norm, ReLU, conv, norm, ReLU, dropout, conv, add; a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs)
        self.dropout = nn.Dropout(dropout)
        same = inputs == outputs and stride == 1
        self.project = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.norm1(x))
        y: Tensor = self.conv2(self.dropout(torch.relu(self.norm2(self.conv1(active)))))
        return y + (x if self.project is None else self.project(active))


def _blocks(name: str, shape: tuple[int, ...], depth: int, extra: int) -> int:
    if len(shape) != 3:
        raise UserError(f"model {name}: takes images, and the samples are arrays of shape {shape}; use mlp")
    if depth <= extra or (depth - extra) % 6:
        raise UserError(f"model {name}: depth is {depth}; it must be 6n + {extra}, such as {6 * 3 + extra}")
    return (depth - extra) // 6


def _stage(block: type[nn.Module], inputs: int, outputs: int, blocks: int, stride: int, *options: float) -> nn.Module:
    first = block(inputs, outputs, stride, *options)
    return nn.Sequential(first, *(block(outputs, outputs, 1, *options) for _ in range(blocks - 1)))


def _head(width: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _initialised(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
