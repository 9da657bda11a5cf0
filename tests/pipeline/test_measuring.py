"""What results.json says of a split, from logits made on the spot."""

from typing import Any

import numpy as np
import pytest

from kdscale.pipeline.measuring import Labelled, fuse, measure
from kdscale.recipe import Joint, Recipe
from kdscale.report.results import Split
from kdscale.training import metrics

CLASSES = 4


def recipe(**fusion: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "teachers": {"model": "mlp", "count": 4},
            "student": {"model": "mlp", "seeds": [3, 5]},
            "fusion": fusion,
        }
    )


def labelled(seed: int, samples: int = 80, sharpness: float = 1.0) -> Labelled:
    """Members and students of different strength, all too sure by the same factor."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, samples)
    names = [f"teacher-seed-{n}" for n in range(4)] + [f"{k}-seed-{n}" for k in ("student", "control") for n in (3, 5)]
    z = {
        name: (sharpness * (2 * np.eye(CLASSES)[y] + (1 + 0.1 * n) * random.normal(size=(samples, CLASSES)))).astype(
            np.float32
        )
        for n, name in enumerate(names)
    }
    return Labelled(y, z)


@pytest.fixture(scope="module")
def split() -> dict[str, Any]:
    return measure(recipe(), labelled(0, sharpness=5), labelled(1, samples=300, sharpness=5))


def test_the_report_reads_it(split: dict[str, Any]) -> None:
    seen = Split.model_validate(split)
    assert seen.by_size[-1].ece is not None
    assert seen.diversity is not None
    assert seen.student.runs[1].scaled is not None


def test_the_ensemble_is_its_own_reference(split: dict[str, Any]) -> None:
    assert (split["ensemble"]["agreement"], split["ensemble"]["divergence"]) == (1, 0)
    for model in (*split["teachers"], split["student"], split["control"]):
        assert 0 < model["agreement"] < 1
        assert model["divergence"] > 0


def test_scaling_mends_what_was_made_too_sure(split: dict[str, Any]) -> None:
    for model in (*split["teachers"], *split["student"]["runs"], *split["control"]["runs"]):
        assert model["scaled"]["temperature"] > 2
        assert model["scaled"]["nll"] < model["nll"]
        assert model["scaled"]["brier"] < model["brier"]


def test_the_ensemble_is_scaled_after_it_is_fused(split: dict[str, Any]) -> None:
    test, validation = labelled(0, sharpness=5), labelled(1, samples=300, sharpness=5)
    p, fitted_on = (fuse("mean_probability", s.members(range(4)).logits, [1] * 4) for s in (test, validation))
    temperature = metrics.fit_temperature(np.log(fitted_on), validation.y)
    assert split["ensemble"]["scaled"]["temperature"] == pytest.approx(temperature)
    scaled = p ** (1 / temperature)
    scaled /= scaled.sum(1, keepdims=True)
    nll = -np.log(scaled[np.arange(80), test.y]).mean()
    assert split["ensemble"]["scaled"]["nll"] == pytest.approx(nll)


def test_several_seeds_are_averaged(split: dict[str, Any]) -> None:
    runs = split["student"]["runs"]
    assert [run["seed"] for run in runs] == [3, 5]
    assert split["student"]["n"] == 80
    assert split["student"]["nll"] == pytest.approx((runs[0]["nll"] + runs[1]["nll"]) / 2)
    mean = (runs[0]["scaled"]["temperature"] + runs[1]["scaled"]["temperature"]) / 2
    assert split["student"]["scaled"]["temperature"] == pytest.approx(mean)


def test_every_size_is_measured_over_its_subsets(split: dict[str, Any]) -> None:
    assert [(row["members"], row["subsets"]) for row in split["by_size"]] == [(1, 4), (2, 6), (3, 4), (4, 1)]
    singles, whole = split["by_size"][0], split["by_size"][-1]
    for name in ("accuracy", "nll", "brier", "ece"):
        each = [teacher[name] for teacher in split["teachers"]]
        expected = {"mean": np.mean(each), "min": min(each), "max": max(each), "std": np.std(each)}
        assert singles[name] == pytest.approx(expected)
        assert whole[name] == pytest.approx({**dict.fromkeys(expected, split["ensemble"][name]), "std": 0})


def test_large_ensembles_are_measured_over_a_sample_of_subsets() -> None:
    many = Recipe.model_validate(
        {"name": "r", "teachers": {"model": "mlp", "count": 9}, "student": {"model": "mlp", "control": False}}
    )
    random = np.random.default_rng(0)
    names = [*(f"teacher-seed-{n}" for n in range(9)), "student-seed-0"]
    outputs = Labelled(np.arange(12) % 3, {name: random.normal(size=(12, 3)).astype(np.float32) for name in names})
    first, again = (measure(many, outputs, None) for _ in range(2))
    assert [row["subsets"] for row in first["by_size"]] == [9, 32, 32, 32, 32, 32, 32, 9, 1]
    assert first == again
    assert "control" not in first


def test_diversity_is_of_the_members_that_count(split: dict[str, Any]) -> None:
    pairs = np.array(split["diversity"]["pairs"])
    assert pairs.shape == (4, 4)
    assert split["diversity"]["disagreement"] == pytest.approx(pairs.sum() / 12)
    fewer = measure(recipe(without=[2]), labelled(0), None)
    assert np.array(fewer["diversity"]["pairs"]).shape == (3, 3)
    assert len(fewer["teachers"]) == 4


def test_without_a_validation_split_nothing_is_scaled() -> None:
    seen = measure(recipe(), labelled(0), None)
    assert not any("scaled" in model for model in (*seen["teachers"], seen["ensemble"], seen["student"]))
    Split.model_validate(seen)


def test_a_seed_without_a_best_temperature_leaves_no_mean() -> None:
    """One student makes no error on the validation split."""
    validation = labelled(1)
    validation.z["student-seed-5"][:] = 9 * np.eye(CLASSES)[validation.y]
    seen = measure(recipe(), labelled(0), validation)["student"]
    assert ["scaled" in run for run in seen["runs"]] == [True, False]
    assert "scaled" not in seen


def test_weights_count_in_the_ensemble() -> None:
    sole = measure(recipe(weights={0: 1e9}), labelled(0), None)
    assert sole["ensemble"]["nll"] == pytest.approx(sole["teachers"][0]["nll"])


def test_students_of_several_seeds_are_measured_together(split: dict[str, Any]) -> None:
    test = labelled(0, sharpness=5)
    p = np.mean([metrics.softmax(test.z[f"student-seed-{seed}"]) for seed in (3, 5)], 0)
    assert split["student_ensemble"]["members"] == 2
    assert split["student_ensemble"]["errors"] == int((p.argmax(1) != test.y).sum())
    assert split["student_ensemble"]["nll"] == pytest.approx(float(-np.log(p[np.arange(80), test.y]).mean()))
    assert split["control_ensemble"]["members"] == 2


def test_the_joint_control_is_measured_beside_the_ensemble() -> None:
    asked = recipe().model_copy(update={"joint": Joint(networks=4, seeds=[0])})
    test = labelled(0)
    test.z["joint-seed-0"] = test.z["control-seed-3"]
    seen = measure(asked, test, None)
    assert seen["joint"]["networks"] == 4
    assert seen["joint"]["errors"] == seen["control"]["runs"][0]["errors"]
    assert "joint_ensemble" not in seen
    assert "joint" in seen["reliability"]
    assert "joint" not in measure(asked, labelled(0), None)
    Split.model_validate(seen)


def test_what_a_temperature_gains_is_told_for_both_splits(split: dict[str, Any]) -> None:
    fitted = split["ensemble"]["scaled"]["fitted"]
    assert fitted["n"] == 300
    assert fitted["nll"] < fitted["nll_before"]
    assert fitted["nll_before"] - fitted["nll"] > 2 * fitted["error"] > 0
