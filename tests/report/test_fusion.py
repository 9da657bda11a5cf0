"""The table of fusion rules as a person sees it."""

from typing import Any

from rich.console import Console

from kdscale.report.fusion import table
from kdscale.report.table import NOTHING

VOTE = {"rule": "borda", "errors": 12, "accuracy": 0.988, "agreement": 0.999, "n": 1000}
AVERAGE = {
    **VOTE,
    "rule": "mean_probability",
    "errors": 10,
    "accuracy": 0.99,
    "nll": 0.04321,
    "brier": 0.02,
    "ece": 0.0123,
}
WEIGHTED = {**AVERAGE, "rule": "stacked_probability", "weights": {0: 0.7, 1: 0.3}}


def shown(rules: list[dict[str, Any]], left_out: dict[str, str] | None = None) -> str:
    compared = {
        "split": "test",
        "n": 1000,
        "members": [0, 1],
        "fitted_on": 1234,
        "rules": rules,
        "left_out": left_out or {},
    }
    console = Console(width=110)
    with console.capture() as capture:
        console.print(table(compared))
    return " ".join(capture.get().split())


def test_votes_have_no_probabilities_to_measure() -> None:
    text = shown([AVERAGE, WEIGHTED, VOTE])
    assert "test: 1,000 samples, 2 members" in text
    assert "mean_probability 10 99.00 99.9 0.0432 0.0200 1.23" in text
    assert " ".join(["borda 12 98.80 99.9", *[NOTHING] * 3]) in text
    assert "weights are fitted on 1,234 validation samples" in text
    assert "summed probability breaks their ties" in text


def test_the_caption_says_only_what_the_table_needs() -> None:
    text = shown([AVERAGE])
    assert "weights" not in text
    assert "votes" not in text


def test_what_is_left_out_is_said_with_the_reason() -> None:
    text = shown([VOTE], {"nll_weighted": "no split", "stacked_logit": "no split", "stacked_features": "no layer"})
    assert "no nll_weighted, stacked_logit: no split; no stacked_features: no layer" in text
