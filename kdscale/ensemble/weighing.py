"""Weighing: how much each member should count, learned from a split that no member was trained on.

The results are (M,) weights that sum to 1, for a rule of `kdscale.ensemble.fusion` or for a recipe's `fusion.weights`;
or, from penultimate features, a readout of its own. All of it is convex, so that the result depends on nothing but the
split, and begins with equal weights, so that it is never worse than those on that split.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

STEPS = 500
"""Steps of an iteration at most."""
TOLERANCE = 1e-9
"""An iteration ends when a step changes less than this, in nats."""


def by_nll(logits: Tensor, y: Tensor) -> Tensor:
    """Weights in inverse proportion to each member's own NLL; (M, N, C) logits and (N,) labels.

    A member with half the NLL of another counts twice. This looks at each member alone: two that make the same mistakes
    count as much as two that do not.
    """
    nll = torch.stack([functional.cross_entropy(z.double(), y) for z in logits])
    return _shares(1 / nll.clamp_min(torch.finfo(torch.float32).tiny))


def stack_probabilities(logits: Tensor, y: Tensor) -> Tensor:
    """Weights that minimise the NLL of the weighted mean probability: stacking (Wolpert 1992; Smyth & Wolpert 1999).

    The weights of a mixture of known distributions, found by expectation maximisation (Dempster, Laird & Rubin 1977):
    each sample gives a member the share that it has in the mixture's probability of the label. No step makes the NLL
    larger, and as it is convex in the weights, no start finds better ones.
    """
    of_label = logits.double().log_softmax(-1).gather(-1, y.expand(len(logits), -1)[..., None])[..., 0]
    likelihood = (of_label - of_label.amax(0)).exp()  # (M, N), a sample's own factor changes nothing
    weights = _equal(logits)
    before = torch.inf
    for _ in range(STEPS):
        mixed = weights @ likelihood
        nll = -float(mixed.log().mean())
        if before - nll < TOLERANCE:
            break
        before = nll
        weights = _shares(weights * (likelihood / mixed).mean(1))
    return weights


def stack_logits(logits: Tensor, y: Tensor) -> Tensor:
    """Weights that minimise the NLL of softmax(sum_m w_m z_m), the weighted geometric mean: a logarithmic opinion pool.

    The NLL is convex in the weights (Heskes 1998). They are a softmax of free parameters, so that they stay positive and
    of sum 1, and are found by L-BFGS.
    """
    z = logits.double()
    free = torch.zeros(len(z), dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return functional.cross_entropy(torch.tensordot(free.softmax(0), z, 1), y)

    before = loss()
    _minimise([free], loss)
    return free.detach().softmax(0) if loss() <= before else _equal(logits)


@dataclass(frozen=True)
class Readout:
    """A linear classifier on the penultimate features of all members, side by side."""

    mean: Tensor
    """(M D,) of the features that it was fitted to."""
    scale: Tensor
    """(M D,) one over their standard deviation."""
    weight: Tensor
    """(M D, C)"""
    bias: Tensor
    """(C,)"""

    def __call__(self, features: Tensor) -> Tensor:
        """(M, N, D) features -> (N, C) float64 logits."""
        return (_side_by_side(features) - self.mean) * self.scale @ self.weight + self.bias


def stack_features(features: Tensor, y: Tensor, classes: int, ridge: float = 1e-2) -> Readout:
    """A readout of the members' penultimate features, by ridge-penalised multinomial logistic regression.

    Minimises the NLL plus ridge / 2 times the squared weights, by L-BFGS in float64 on standardised features.

    Args:
        features: (M, N, D), of a split that no member was trained on: on their own training samples members look far
            surer than they are.
        ridge: keeps the weights finite where the classes can be separated.
    """
    x = _side_by_side(features)
    mean = x.mean(0)
    scale = 1 / x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) * scale
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    _minimise(
        [weight, bias], lambda: functional.cross_entropy(x @ weight + bias, y) + ridge / 2 * weight.square().sum()
    )
    return Readout(mean, scale, weight.detach(), bias.detach())


def _minimise(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    """Set the parameters to where the loss is smallest, by L-BFGS."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=STEPS, tolerance_grad=1e-8, tolerance_change=TOLERANCE, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _side_by_side(features: Tensor) -> Tensor:
    return features.double().permute(1, 0, 2).flatten(1)


def _equal(logits: Tensor) -> Tensor:
    return torch.full((len(logits),), 1 / len(logits), dtype=torch.float64)


def _shares(values: Tensor) -> Tensor:
    return values / values.sum()
