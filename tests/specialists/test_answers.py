"""Logits of unequal specialists, shifted and joined, are what the parts give one by one."""

import torch
from torch import Tensor

from kdscale.specialists.answers import Together
from kdscale.specialists.dustbin import corrected
from kdscale.specialists.inference import joint
from kdscale.specialists.sets import ClassSets

SETS = ClassSets.of([[0, 1, 2], [2, 3]], classes=6)
ROWS = torch.arange(20.0)[:, None]
"""Samples are the numbers of the rows that the networks answer with."""


def says(logits: Tensor):
    return lambda x: logits[x[:, 0].long()]


def test_shifted_padded_and_joined():
    g, a, b = torch.randn(20, 6), torch.randn(20, 4), torch.randn(20, 3)
    found = Together(says(g), [says(a), says(b)], [0.5, 1.0], SETS).infer(ROWS)
    first, second = corrected(a.double(), 0.5).softmax(1), corrected(b.double(), 1.0).softmax(1)
    own = torch.zeros(20, 2, 3, dtype=torch.float64)
    own[:, 0], own[:, 1, :2] = first[:, :3], second[:, :2]
    wanted = joint(g.double().softmax(1), own, torch.stack([first[:, 3], second[:, 2]], 1), SETS)
    assert torch.equal(found.q, wanted.q)
    assert found.residual.max() < 1e-9


def test_specialists_are_asked_only_where_they_are_active():
    g = torch.zeros(20, 6)
    g[:15, 5], g[15:, 3] = 3.0, 3.0  # class 5 is nobody's, class 3 the second one's
    asked: list[list[float]] = []

    def second(x: Tensor) -> Tensor:
        asked.append(x[:, 0].tolist())
        return torch.zeros(len(x), 3)

    found = Together(says(g), [lambda x: 1 / 0, second], [0.0, 0.0], SETS).infer(ROWS)
    assert asked == [[15.0, 16.0, 17.0, 18.0, 19.0]]
    assert torch.equal(found.q[:15], g[:15].double().softmax(1))
    assert not torch.equal(found.q[15:], g[15:].double().softmax(1))


def test_specialists_that_agree_with_the_generalist_change_nothing():
    g = torch.randn(20, 6).double()
    rest = [g[:, [3, 4, 5]].logsumexp(1, keepdim=True), g[:, [0, 1, 4, 5]].logsumexp(1, keepdim=True)]
    logits = [torch.cat([g[:, [0, 1, 2]], rest[0]], 1), torch.cat([g[:, [2, 3]], rest[1]], 1)]
    together = Together(says(g), [says(one) for one in logits], [0.0, 0.0], SETS, n=3)
    torch.testing.assert_close(together.infer(ROWS).q, g.softmax(1))
    torch.testing.assert_close(together(ROWS), g.log_softmax(1).float())


def test_what_is_impossible_has_a_finite_logarithm():
    g = torch.full((20, 6), -1e4)
    g[:, 5] = 0.0
    said = Together(says(g), [says(torch.zeros(20, 4)), says(torch.zeros(20, 3))], [0.0, 0.0], SETS)(ROWS)
    assert said.isfinite().all()
    assert (said.argmax(1) == 5).all()
