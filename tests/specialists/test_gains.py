"""The paper's tables from answers whose counts are known."""

import pytest
import torch

from kdscale.errors import UserError
from kdscale.specialists.gains import Coverage, accuracies, by_coverage, chance, merged, purity, trend

MEMBERS = torch.tensor([[True, True, False, False], [False, True, True, False]])


def test_rows_by_coverage_count_what_specialists_changed():
    y = torch.tensor([3, 3, 0, 0, 1, 1, 1])
    before = torch.tensor([3, 0, 0, 1, 1, 0, 0])
    after = torch.tensor([3, 0, 0, 0, 1, 1, 1])
    rows = by_coverage(before, after, y, MEMBERS)
    assert [(row.specialists, row.examples, row.before, row.change, row.relative) for row in rows] == [
        (0, 2, 1, 0, 0.0),
        (1, 2, 1, 1, 1.0),
        (2, 3, 1, 2, 2.0),
    ]
    assert trend(rows) == pytest.approx(1.0)


def test_the_last_row_holds_all_that_are_covered_more_often():
    y = torch.tensor([0, 1, 3])
    rows = by_coverage(y, y, y, MEMBERS, most=1)
    assert [(row.specialists, row.examples) for row in rows] == [(0, 1), (1, 2)]


def test_tables_of_seeds_add_up():
    first, second = [Coverage(0, 4, 2, 2)], [Coverage(0, 4, 1, 2), Coverage(3, 5, 0, 1)]
    assert merged([first, second]) == [Coverage(0, 8, 3, 4), Coverage(3, 5, 0, 1)]
    assert merged([first, second])[1].relative is None


def test_conditional_accuracy_is_of_special_classes_among_themselves():
    q = torch.tensor([[0.3, 0.2, 0.0, 0.5], [0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
    found = accuracies(q, torch.tensor([0, 1, 3]), MEMBERS.any(0))
    assert found.test == pytest.approx(1 / 3)
    assert found.conditional == 1.0
    assert accuracies(q[2:], torch.tensor([3]), MEMBERS.any(0)).conditional is None


def test_no_trend_in_few_or_equal_rows():
    assert trend([Coverage(0, 2, 1, 1), Coverage(1, 2, 1, 2)]) is None
    assert trend([Coverage(number, 2, 1, 1) for number in range(4)]) is None


def test_refuses_an_empty_test_split():
    with pytest.raises(UserError, match="test split"):
        accuracies(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), MEMBERS.any(0))


def test_small_rows_do_not_make_a_trend():
    rows = [Coverage(0, 500, 400, 400), Coverage(1, 300, 200, 210), Coverage(2, 200, 100, 110), Coverage(3, 5, 4, 1)]
    assert trend(rows) == pytest.approx(1.0)


def test_purity_is_the_share_of_the_most_frequent_group():
    names = ["a/1", "a/2", "b/1", "b/2", "b/3"]
    assert purity([[0, 1, 2], [2, 3]], names) == pytest.approx((2 / 3 + 1) / 2)
    assert purity([[0]], ["a/1", "b"]) is None


def test_purity_by_chance_is_that_of_sets_of_the_same_sizes():
    names = [f"{group}/{number}" for group in "ab" for number in range(50)]
    assert chance([[0], [1]], names, 0) == 1
    assert chance([list(range(50)), list(range(50, 100))], names, 0) == pytest.approx(0.54, abs=0.02)
    assert chance([[3, 7]], names, 0) == chance([[1, 2]], names, 0)
    assert chance([[0]], ["a", "b"], 0) is None
