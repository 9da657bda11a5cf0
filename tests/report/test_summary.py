"""The sentences are right, honest when the student loses, and silent where a comparison has no meaning."""

import copy

import pytest

from kdscale.errors import UserError
from kdscale.report import summary
from kdscale.report.results import checked

TEACHERS = [60, 64, 56, 62, 58]


def main(results):
    return checked(results).splits["test"]


def test_fewer_errors_than_the_control_and_the_share_of_the_gain(results):
    found = checked(results(TEACHERS, ensemble=40, student=[42, 44, 43], control=[60, 62, 61]))
    assert summary.caption(found) == (
        "the student makes 30% fewer errors than its control; "
        "it keeps 85% of the ensemble's gain over a single teacher with 1/5 of the ensemble's parameters"
    )


@pytest.mark.parametrize(
    ("student", "control", "expected"),
    [
        ([50], [40], "the student makes 25% more errors than its control"),
        ([100], [40], "the student makes 2.5 times as many errors as its control"),
        ([40], [40], "the student and its control make equally many errors (40)"),
        ([0], [0], "the student and its control make no errors"),
        ([1], [0], "the student makes 1 error, its control none"),
        ([0], [9], "the student makes 100% fewer errors than its control"),
        ([1000], [1001], "the student makes about as many errors as its control"),
    ],
)
def test_against_the_control(results, student, control, expected):
    assert summary.against_control(main(results(TEACHERS, student=student, control=control))) == expected


def test_without_a_control_nothing_is_said_of_it(results):
    found = checked(results(TEACHERS))
    assert summary.against_control(found.splits["test"]) is None
    assert summary.evidence(found.splits["test"]) is None
    assert summary.caption(found).startswith("the student keeps 70% of the ensemble's gain")
    assert not any("control" in sentence for sentence in summary.sentences(found))


def test_a_student_below_a_teacher_keeps_none_of_the_gain(results):
    text = summary.against_ensemble(main(results(TEACHERS, ensemble=40, student=[70])), {})
    assert text == (
        "it keeps none of the ensemble's gain over a single teacher, and is 1.00 points less accurate than one"
    )


def test_a_student_above_the_ensemble_keeps_more_than_all(results):
    assert summary.gain_kept(main(results(TEACHERS, ensemble=40, student=[30]))) == pytest.approx(1.5)


def test_an_ensemble_without_gain_is_said_to_have_none(results):
    split = main(results([50, 50], ensemble=50))
    assert summary.gain_kept(split) is None
    assert "no gain to keep" in summary.against_ensemble(split, {})


def test_a_single_teacher_is_compared_itself(results):
    found = checked(results([50], ensemble=50, student=[40]))
    assert summary.gain_kept(found.splits["test"]) is None
    assert summary.sentences(found) == [
        "The student makes 20% fewer errors than its teacher; the student has as many parameters as the teacher."
    ]


def test_zero_errors_everywhere(results):
    found = checked(results([0, 0], ensemble=0, student=[0], control=[0]))
    assert summary.caption(found).startswith("the student and its control make no errors")


def test_the_seeds_are_told(results):
    apart = summary.evidence(main(results(TEACHERS, student=[42, 44], control=[60, 62])))
    assert apart is not None
    assert "do not overlap" in apart
    mixed = summary.evidence(main(results(TEACHERS, student=[42, 60], control=[58, 62])))
    assert mixed is not None
    assert mixed.endswith("the ranges over 2 seeds overlap")
    single = summary.evidence(main(results(TEACHERS, student=[42], control=[60])))
    assert single == "42 against 60 of 1,000; one seed, so chance is not excluded"


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        (100, "1/5 of the ensemble's parameters"),
        (200, "1/2.5 of the ensemble's parameters"),
        (10, "1/50 of the ensemble's parameters"),
        (400, "0.8 of the ensemble's parameters"),
        (500, "as many parameters as the ensemble"),
        (1000, "2 times the ensemble's parameters"),
        (0, None),
    ],
)
def test_size_ratio(results, student, expected):
    tree = results(TEACHERS)
    tree["models"]["ensemble"]["parameters"] = 500
    tree["models"]["student"]["parameters"] = student
    assert summary.size_ratio(checked(tree).models) == expected


def test_confused_pairs_are_sorted_and_limited():
    pairs = summary.confused_pairs([[8, 2, 0], [1, 9, 0], [5, 0, 0]], ["a", "b", "c"], limit=2)
    assert pairs == [("c", "a", 5, 1.0), ("a", "b", 2, 0.2)]


def test_spread_of_one_value_has_no_deviation():
    assert summary.spread([3.0]) == (3.0, None)
    assert summary.spread([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("splits", "test", "student"), None, "splits.test.student"),
        (("splits",), {}, "splits"),
        (("splits", "test", "teachers"), [], "splits.test.teachers"),
        (("splits", "test", "ensemble", "accuracy"), "high", "splits.test.ensemble.accuracy"),
        (("splits", "test", "confusion", "student"), [[1]], "not 10 by 10"),
    ],
)
def test_what_evaluation_does_not_write_is_refused(results, path, value, named):
    tree = copy.deepcopy(results(TEACHERS))
    node = tree
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    with pytest.raises(UserError, match=r"kdscale evaluate") as caught:
        checked(tree)
    assert named in str(caught.value)


def test_the_joint_control_is_told_beside_ensemble_and_teacher(results):
    tree = results([60, 62], ensemble=40)
    assert summary.against_joint(main(tree)) is None
    tree["splits"]["test"]["joint"] = {**tree["splits"]["test"]["student"], "networks": 2, "errors": 59.5}
    assert summary.sentences(checked(tree))[-1] == (
        "2 networks trained jointly, as one, make 59.5 errors, the ensemble 40 and a single teacher 61."
    )
