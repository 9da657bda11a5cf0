"""What a student's fingerprint depends on."""

from kdscale.pipeline import student
from kdscale.recipe import Recipe


def added(**changes: object) -> set[str]:
    tree = {"name": "x", "teachers": {"model": "mlp"}, "student": {"model": "mlp", **changes}}
    return student._at_default(Recipe.model_validate(tree))


def test_options_at_their_defaults_leave_fingerprints_as_they_were() -> None:
    assert added() == set(student.ADDED)
    assert added(alpha=0.5, mixup=0.2) == set(student.ADDED) - {"alpha", "mixup"}


def test_what_the_soft_term_alone_uses_is_no_part_of_a_control() -> None:
    assert {"divergence", "alpha", "temperature_end"} <= student.SOFT_ONLY
    assert not {"label_smoothing", "mixup"} & student.SOFT_ONLY
