"""Targets fused from what each codec holds."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdscale.ensemble.fusion import mean_logit
from kdscale.ensemble.targets import fused
from kdscale.errors import UserError
from kdscale.logits.dense import Dense
from kdscale.logits.sampled import Sampled
from kdscale.logits.topk import TopK

Z = np.random.default_rng(0).normal(size=(3, 5, 12)).astype(np.float32) * 3


def rows(codec, temperature: float) -> list:
    draws = np.linspace(0, 0.9, 5)
    return [codec.decode(pa.table(codec.encode(z, draws)), 12, temperature) for z in Z]


def test_dense_rows_take_any_rule() -> None:
    target = fused(rows(Dense("float32"), 2.0), "mean_logit", 2.0)
    assert torch.allclose(target["p"], mean_logit(torch.from_numpy(Z), 2.0))


def test_heads_stay_side_by_side_with_their_tails() -> None:
    target = fused(rows(TopK(4, [2.0]), 2.0), "mean_probability", 2.0)
    assert target["ids"].shape == target["p"].shape == (5, 3, 4)
    assert torch.allclose(target["p"].sum(2) + target["tail"], torch.ones(5, 3))


def test_draws_of_members_are_one_distribution() -> None:
    target = fused(rows(Sampled(6, 2.0), 2.0), "mean_probability", 2.0)
    assert target["ids"].shape[1] == 1
    assert torch.allclose(target["p"].sum((1, 2)), torch.ones(5))
    assert not target["tail"].any()


@pytest.mark.parametrize("codec", [TopK(4, [2.0]), Sampled(6, 2.0)])
def test_a_rule_that_needs_all_logits_is_refused(codec) -> None:
    with pytest.raises(UserError, match=r"mean_logit needs every logit, which only logits.codec dense keeps"):
        fused(rows(codec, 2.0), "mean_logit", 2.0)
