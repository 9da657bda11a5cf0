"""A small convolutional network for pictures of about 28x28 or 32x32 pixels."""

from torch import nn

from kdscale.errors import UserError


def convnet(shape: tuple[int, ...], classes: int, width: int = 32, dropout: float = 0.0) -> nn.Module:
    """Three 3x3 convolutions of width, 2 width and 4 width channels, halving twice, then the global average.

    No normalisation layers, so that members can be packed and replicas need not agree on statistics.
    """
    if len(shape) != 3:
        raise UserError(f"model convnet: takes images, and the samples are arrays of shape {shape}; use mlp")
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(2 * width, 4 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(4 * width, classes))
