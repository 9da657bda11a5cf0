"""What a specialist is taught: labels of its own classes, the dustbin or the generalist's opinion for the rest."""

import torch
import torch.nn.functional as F

from kdscale.data.batches import Batch
from kdscale.specialists.objective import hard, merged, numbering, soft_rest

OWN = [3, 1]


def batch() -> Batch:
    thought = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    return Batch(torch.zeros(4, 1), torch.tensor([3, 1, 0, 4]), {"generalist": thought})


def test_classes_are_numbered_in_the_sets_order_and_others_are_the_dustbin():
    assert numbering(OWN, 5).tolist() == [2, 1, 2, 0, 2]


def test_merging_keeps_own_classes_and_sums_the_rest():
    p = batch().targets["generalist"].exp()
    wanted = torch.stack([p[:, 3], p[:, 1], p[:, [0, 2, 4]].sum(1)], 1)
    torch.testing.assert_close(merged(p.log(), OWN).exp(), wanted)


def test_hard_is_the_cross_entropy_with_own_number_or_dustbin():
    logits = torch.randn(4, 3)
    assert torch.equal(hard(OWN, 5)(logits, batch())["loss"], F.cross_entropy(logits, torch.tensor([0, 1, 2, 2])))


def test_soft_rest_is_zero_where_the_specialist_agrees_and_teaches_labels_of_its_own():
    given = batch()
    losses = soft_rest(OWN, 5)(merged(given.targets["generalist"], OWN), given)
    assert losses["soft"].abs() < 1e-6
    assert losses["hard"] > 0
    torch.testing.assert_close(losses["loss"], losses["hard"] + losses["soft"])


def test_soft_rest_gradient_of_a_rest_sample_is_the_difference_of_distributions():
    given, logits = batch(), torch.randn(4, 3, requires_grad=True)
    soft_rest(OWN, 5)(logits, given)["loss"].backward()
    wanted = (logits.softmax(1) - merged(given.targets["generalist"], OWN).exp())[2:] / 4
    torch.testing.assert_close(logits.grad[2:], wanted)
