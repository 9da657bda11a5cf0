"""The comparison of all rules."""

import numpy as np
import pytest

from kdscale.ensemble import comparison
from kdscale.ensemble.comparison import AVERAGES, RULES, Outputs, compare, named
from kdscale.errors import UserError


def outputs(seed: int, members: int = 4, samples: int = 60) -> Outputs:
    """Members of which each is noisier than the one before."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 5, samples)
    noise = random.normal(size=(members, samples, 5)) * np.arange(1, members + 1)[:, None, None]
    return Outputs((4 * np.eye(5)[y] + 2 * noise).astype(np.float32), y)


def test_every_rule_is_measured_on_the_same_samples() -> None:
    rows = {row["rule"]: row for row in compare(RULES, outputs(0), outputs(1), 15)}
    assert list(rows) == list(RULES)
    for name, row in rows.items():
        assert row["n"] == 60
        assert row["accuracy"] == pytest.approx(1 - row["errors"] / 60)
        assert (row.get("nll") is not None) == (name in AVERAGES)
        assert (row.get("weights") is not None) == comparison.needs_validation(name)
    assert rows["mean_probability"]["agreement"] == 1
    weights = rows["stacked_probability"]["weights"]
    assert sum(weights) == pytest.approx(1)
    assert weights[0] == max(weights)  # the member with the least noise


def test_without_another_split_nothing_is_fitted() -> None:
    left = [row["rule"] for row in compare(RULES, outputs(0), None, 15)]
    assert set(RULES) - set(left) == {"nll_weighted", "stacked_probability", "stacked_logit"}


def test_one_member_decides_alone_whatever_the_rule() -> None:
    rows = compare(RULES, outputs(0, members=1), outputs(1, members=1), 15)
    assert len({row["errors"] for row in rows}) == 1
    assert {row["agreement"] for row in rows} == {1}


def test_names() -> None:
    assert named("all") == list(RULES)
    assert named("borda, stv,borda") == ["borda", "stv"]
    with pytest.raises(UserError, match="there is no rule bordas; did you mean borda"):
        named("stv,bordas")
    with pytest.raises(UserError, match="there is no rule xyz; take all, or some of mean_probability"):
        named("xyz")
