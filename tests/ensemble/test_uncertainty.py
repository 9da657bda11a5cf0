"""Uncertainty: entropies and votes on profiles made by hand."""

import math

import numpy as np
import pytest
import torch

from kdscale.ensemble.uncertainty import measures, of_rows
from kdscale.errors import UserError
from kdscale.logits.rows import Logits, Sparse

SURE = 200.0


def test_members_that_agree_and_members_that_do_not() -> None:
    z = torch.zeros(2, 3, 2)
    z[:, 0, 0] = SURE  # both sure of the same
    z[0, 1, 0] = z[1, 1, 1] = SURE  # each sure of another
    # row 2: both undecided
    found = measures(z)
    ln2 = math.log(2)
    assert found["entropy"].tolist() == pytest.approx([0, ln2, ln2])
    assert found["mean_entropy"].tolist() == pytest.approx([0, 0, ln2])
    assert found["mutual_information"].tolist() == pytest.approx([0, ln2, 0], abs=1e-6)
    assert found["disagreement"].tolist() == pytest.approx([0, 0.5, 0])


def test_parts_add_up_and_stay_in_their_bounds() -> None:
    z = torch.randn(5, 40, 7, generator=torch.Generator().manual_seed(0)) * 3
    found = measures(z, 2.0)
    assert torch.allclose(found["entropy"], found["mean_entropy"] + found["mutual_information"], atol=1e-6)
    assert (found["mutual_information"] >= 0).all()
    assert (found["entropy"] <= math.log(7) + 1e-6).all()
    votes = z.argmax(-1)
    for row in range(40):
        most = torch.bincount(votes[:, row]).max()
        assert found["disagreement"][row] == pytest.approx(1 - int(most) / 5)


def test_masked_classes_do_not_spoil_an_entropy() -> None:
    z = torch.tensor([[[0.0, 0.0, -torch.inf]], [[0.0, 0.0, -torch.inf]]])
    assert float(measures(z)["entropy"]) == pytest.approx(math.log(2))


def test_what_a_codec_allows() -> None:
    z = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    assert set(of_rows([Logits(m) for m in z], 1.0)) == {
        "entropy",
        "mean_entropy",
        "mutual_information",
        "disagreement",
    }
    heads = [Sparse(np.argsort(-m, 1)[:, :2], np.tile(np.float32([0.5, 0.3]), (4, 1)), np.full(4, 0.2)) for m in z]
    found = of_rows(heads, 1.0)
    assert set(found) == {"disagreement"}
    assert torch.equal(found["disagreement"], of_rows([Logits(m) for m in z], 1.0)["disagreement"])
    counts = [Sparse(h.ids, h.p, h.tail, counted=True) for h in heads]
    with pytest.raises(UserError, match=r"uncertainty: counts of a few draws .* take logits.codec dense"):
        of_rows(counts, 1.0)
