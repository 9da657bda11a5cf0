"""The comparison of all rules."""

import numpy as np
import pytest

from kdscale.ensemble import comparison
from kdscale.ensemble.comparison import AVERAGES, FEATURES, RULES, Outputs, compare, named
from kdscale.errors import UserError


def outputs(seed: int, members: int = 4, samples: int = 60) -> Outputs:
    """Members of which each is noisier than the one before."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 5, samples)
    noise = random.normal(size=(members, samples, 5)) * np.arange(1, members + 1)[:, None, None]
    return Outputs((4 * np.eye(5)[y] + 2 * noise).astype(np.float32), y)


def test_every_rule_is_measured_on_the_same_samples() -> None:
    rows = {row["rule"]: row for row in compare(RULES, outputs(0), outputs(1), 15)}
    assert list(rows) == [rule for rule in RULES if rule != FEATURES]
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
    assert set(RULES) - set(left) == {"nll_weighted", "stacked_probability", "stacked_logit", FEATURES}


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


def test_weights_count_in_means_and_as_ballots_in_votes() -> None:
    alone, heavy = outputs(0, members=1), outputs(0, members=3)
    heavy.logits[0] = alone.logits[0] = heavy.logits[2]
    rules = ["mean_probability", "plurality", "borda", "kemeny"]
    rows = compare(rules, heavy, None, 15, [9.0, 1.0, 1.0])
    assert [row.get("ballots") for row in rows] == [None, *[[9, 1, 1]] * 3]
    single = compare(rules, alone, None, 15)
    assert [row["errors"] for row in rows[1:2]] == [row["errors"] for row in single[1:2]]
    assert rows[0]["nll"] != compare(rules, heavy, None, 15)[0]["nll"]
