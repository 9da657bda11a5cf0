"""Logits of unequal specialists, shifted and joined, are what the parts give one by one."""

import torch

from kdscale.specialists.answers import together
from kdscale.specialists.dustbin import corrected
from kdscale.specialists.inference import joint
from kdscale.specialists.sets import ClassSets

SETS = ClassSets.of([[0, 1, 2], [2, 3]], classes=6)


def test_shifted_padded_and_joined():
    g, a, b = torch.randn(20, 6), torch.randn(20, 4), torch.randn(20, 3)
    found = together(g, [a, b], [0.5, 1.0], SETS)
    first, second = corrected(a.double(), 0.5).softmax(1), corrected(b.double(), 1.0).softmax(1)
    own = torch.zeros(20, 2, 3, dtype=torch.float64)
    own[:, 0], own[:, 1, :2] = first[:, :3], second[:, :2]
    wanted = joint(g.double().softmax(1), own, torch.stack([first[:, 3], second[:, 2]], 1), SETS)
    assert torch.equal(found.q, wanted.q)
    assert found.residual.max() < 1e-9


def test_without_an_active_specialist_the_generalist_stands():
    g = torch.zeros(1, 6)
    g[0, 5] = 3.0
    found = together(g, [torch.randn(1, 4), torch.randn(1, 3)], [0.0, 0.0], SETS)
    assert torch.equal(found.q, g.double().softmax(1))


def test_specialists_that_agree_with_the_generalist_change_nothing():
    g = torch.randn(20, 6).double()
    rest = [g[:, [3, 4, 5]].logsumexp(1, keepdim=True), g[:, [0, 1, 4, 5]].logsumexp(1, keepdim=True)]
    logits = [torch.cat([g[:, [0, 1, 2]], rest[0]], 1), torch.cat([g[:, [2, 3]], rest[1]], 1)]
    torch.testing.assert_close(together(g, logits, [0.0, 0.0], SETS).q, g.softmax(1))
