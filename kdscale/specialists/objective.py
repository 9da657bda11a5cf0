"""What a specialist learns: its own classes by name, and one dustbin class for all others.

Hard labels say "dustbin" of every sample of the rest. The soft option answers the paper's worry that specialists overfit
(Hinton, Vinyals & Dean 2015, section 6.1): a sample of the rest is taught what the generalist thinks of it instead, its
probabilities of the own classes kept and all others summed into the dustbin.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdscale.data.batches import Batch
from kdscale.training.objectives import Losses, Objective


def numbering(own: list[int], classes: int) -> Tensor:
    """(C,) int64: a class's number among the specialist's outputs, S (the dustbin) for all others."""
    numbers = torch.full((classes,), len(own), dtype=torch.int64)
    numbers[torch.tensor(own)] = torch.arange(len(own))
    return numbers


def merged(generalist: Tensor, own: list[int]) -> Tensor:
    """(B, C) log-probabilities -> (B, S + 1): the own classes, then the log of all others' sum."""
    rest = torch.ones(generalist.shape[1], dtype=torch.bool, device=generalist.device)
    rest[own] = False
    return torch.cat([generalist[:, own], generalist[:, rest].logsumexp(1, keepdim=True)], 1)


def hard(own: list[int], classes: int) -> Objective:
    """Cross-entropy with the label, whatever is not special being the dustbin."""
    numbers = numbering(own, classes)

    def objective(logits: Tensor, batch: Batch) -> Losses:
        loss = F.cross_entropy(logits.float(), numbers.to(logits.device)[batch.y])
        return {"loss": loss, "hard": loss}

    return objective


def soft_rest(own: list[int], classes: int, name: str = "generalist") -> Objective:
    """Labels for the special samples, the generalist's opinion for the rest; a mean over all samples.

    The soft part is the Kullback-Leibler divergence at T = 1, 0 where the specialist agrees with the generalist.

    Args:
        name: of the (B, C) log-probabilities in the batch's targets.
    """
    numbers = numbering(own, classes)

    def objective(logits: Tensor, batch: Batch) -> Losses:
        scores = logits.float().log_softmax(1)
        labels = numbers.to(logits.device)[batch.y]
        special = labels < len(own)
        named = F.nll_loss(scores, labels, reduction="none")
        wanted = merged(batch.targets[name].float(), own)
        thought = F.kl_div(scores, wanted, reduction="none", log_target=True).sum(1)
        return {
            "loss": torch.where(special, named, thought).mean(),
            "hard": torch.where(special, named, 0.0).mean(),
            "soft": torch.where(special, 0.0, thought).mean(),
        }

    return objective
