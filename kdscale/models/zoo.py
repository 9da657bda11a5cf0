"""From a model's name and options to a network.

A factory takes the sample's shape and the number of classes, and its own options by name. Everything random in
it must come from torch's global generator: the caller seeds that, so that a seed alone fixes the weights.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from kdscale.errors import UserError, in_a_line
from kdscale.models.average import average
from kdscale.models.convnet import convnet
from kdscale.models.mixture import mixture
from kdscale.models.mlp import mlp
from kdscale.models.resnet import resnet, wide_resnet
from kdscale.models.smoothed import smoothed
from kdscale.models.specialist import specialist
from kdscale.models.supernet import supernet
from kdscale.models.tangent import tangent
from kdscale.recipe import ModelSpec

Factory = Callable[..., nn.Module]

ZOO: dict[str, Factory] = {
    "mlp": mlp,
    "convnet": convnet,
    "resnet": resnet,
    "wide_resnet": wide_resnet,
    "average": average,
    "mixture": mixture,
    "specialist": specialist,
    "smoothed": smoothed,
    "supernet": supernet,
    "tangent": tangent,
}


def build(spec: ModelSpec, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """A freshly initialised network on the CPU: (B, *shape) float32 -> (B, classes) logits.

    The weights are a function of (spec, shape, classes, seed); torch's generator is left as it was.

    Raises:
        UserError: unknown model, options it does not take, or a factory that returns something else.
    """
    factory = _factory(spec.name)
    try:
        inspect.signature(factory).bind(shape, classes, **spec.options)
    except ValueError:
        pass  # a built-in that does not tell its signature
    except TypeError as error:
        raise UserError(f"model {spec.name}: {error}; its options are {_options(factory)}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = factory(shape, classes, **spec.options)
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"model {spec.name}: cannot be built with {spec.options or 'its defaults'} "
                f"({type(error).__name__}: {error}); mend the options or the factory"
            ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {spec.name}: the factory returned {type(model).__name__}, not a torch.nn.Module")
    return model


def check(model: nn.Module, spec: ModelSpec, shape: tuple[int, ...], classes: int) -> None:
    """Ask a network about one sample of zeros.

    Raises:
        UserError: it does not take samples of that shape, or does not give a logit for each class.
    """
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            given = model(torch.zeros(1, *shape))
    except Exception as error:
        raise UserError(
            f"model {spec.name}: does not take a sample of shape {shape} ({type(error).__name__}: {in_a_line(error)}); "
            "mend its options or its forward"
        ) from error
    seen = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
    if seen != (1, classes):
        raise UserError(
            f"model {spec.name}: gives {seen} for one sample and {classes} classes, not (1, {classes}); mend its last layer"
        )


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _factory(name: str) -> Factory:
    if name in ZOO:
        return ZOO[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"model {name}: not one of {', '.join(ZOO)}; your own is package.module:factory")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory: Factory = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise UserError(
            f"model {name}: {module_name} cannot be imported ({error}); is its folder on the path?"
        ) from None
    except AttributeError:
        raise UserError(f"model {name}: {module_name} has no {attribute}") from None
    if not callable(factory):
        raise UserError(f"model {name}: {attribute} is not a function")
    return factory


def _options(factory: Factory) -> str:
    names = [p.name for p in list(inspect.signature(factory).parameters.values())[2:]]
    return ", ".join(names) or "none"
