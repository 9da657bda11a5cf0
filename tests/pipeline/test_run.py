"""Run directories: what a recipe may change there, and what is kept."""

from pathlib import Path

import pytest

from kdscale.errors import UserError
from kdscale.pipeline.run import Run, check, load_recipe, only_driver, open_run, set_aside
from kdscale.recipe import Recipe


def recipe(**changes: object) -> Recipe:
    tree: dict = {
        "name": "r",
        "teachers": {"model": "mlp", "count": 2},
        "student": {"model": "mlp"},
    }
    for path, value in changes.items():
        section, _, field = path.partition("__")
        if field:
            tree.setdefault(section, {})[field] = value
        else:
            tree[section] = value
    return Recipe.model_validate(tree)


@pytest.mark.parametrize(
    "change",
    [
        {"student__temperature": 9},
        {"student__model": "convnet"},
        {"student__seeds": [4, 5]},
        {"fusion": "mean_logit"},
        {"logits__dtype": "float32"},
        {"logits__views": 3},
        {"data__views": {"jitter": 1}},
        {"teachers__count": 7},
        {"teachers__cpus": 2},
        {"teachers__pack": 3},
        {"teachers__checkpoint_epochs": 0.5},
        {"cluster__cpus": 1},
        {"evaluate__bins": 10},
    ],
    ids=lambda c: next(iter(c)),
)
def test_changes_downstream_of_the_members_go_on_in_the_same_directory(tmp_path: Path, change: dict) -> None:
    open_run(tmp_path / "r", recipe())
    _, changes = open_run(tmp_path / "r", recipe(**change))
    assert len(changes) >= 1
    assert open_run(tmp_path / "r", recipe(**change))[1] == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"seed": 1},
        {"data__source": "idx"},
        {"data__test": 0.5},
        {"teachers__epochs": 77},
        {"teachers__model": "convnet"},
        {"teachers__first_seed": 1},
    ],
    ids=lambda c: next(iter(c)),
)
def test_a_run_of_a_different_recipe_is_refused_and_says_what_differs(tmp_path: Path, change: dict) -> None:
    open_run(tmp_path / "r", recipe())
    for made in ("data/imported.json", "teachers/seed-0/done.json"):
        (tmp_path / "r" / made).parent.mkdir(parents=True)
        (tmp_path / "r" / made).write_text("{}")
    before = (tmp_path / "r" / "recipe.yaml").read_text()
    with pytest.raises(UserError, match="holds a run of a different recipe") as caught:
        open_run(tmp_path / "r", recipe(**change))
    ((field, value),) = change.items()
    assert field.replace("__", ".") in str(caught.value)
    assert str(value) in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert (tmp_path / "r" / "recipe.yaml").read_text() == before


def test_a_mistake_can_be_mended_in_the_same_directory_while_nothing_is_made(tmp_path: Path) -> None:
    open_run(tmp_path / "r", recipe(data__path="/typo"))
    open_run(tmp_path / "r", recipe(data__path="/right", teachers__model="convnet"))
    (tmp_path / "r" / "data").mkdir()
    (tmp_path / "r" / "data" / "imported.json").write_text("{}")
    open_run(tmp_path / "r", recipe(data__path="/right", teachers__lr=1e-4, teachers__model="convnet"))
    with pytest.raises(UserError, match=r"data\.path"):
        open_run(tmp_path / "r", recipe(data__path="/other", teachers__model="convnet"))


def test_a_recipe_that_may_be_refused_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    open_run(tmp_path / "r", recipe(), tentative=True)
    first = load_recipe(tmp_path / "r")  # a new directory has one at once
    run, changes = open_run(tmp_path / "r", recipe(evaluate__bins=10), tentative=True)
    assert changes
    assert load_recipe(tmp_path / "r") == first
    run.keep_recipe()
    assert load_recipe(tmp_path / "r").evaluate.bins == 10


def test_fresh_sets_the_old_run_aside(tmp_path: Path) -> None:
    open_run(tmp_path / "r", recipe())
    (tmp_path / "r" / "precious").write_text("x")
    for seed in (1, 2):
        set_aside(tmp_path / "r")
        open_run(tmp_path / "r", recipe(seed=seed))
    assert (tmp_path / "r.1" / "precious").read_text() == "x"
    assert (tmp_path / "r.2" / "recipe.yaml").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for action in (lambda: check(tmp_path, recipe()), lambda: set_aside(tmp_path)):
        with pytest.raises(UserError, match="not a run directory"):
            action()
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(UserError, match="is a file"):
        check(tmp_path / "thesis.tex", recipe())


def test_a_claimed_artefact_is_set_aside_for_another_and_comes_back(tmp_path: Path) -> None:
    run = Run(tmp_path, recipe())
    (run.claim("students/a", "1" * 64) / "weights").write_text("first")
    second = run.claim("students/a", "2" * 64)
    assert not (second / "weights").exists()
    (second / "weights").write_text("second")
    assert (run.claim("students/a", "1" * 64) / "weights").read_text() == "first"
    assert (run.claim("students/a", "1" * 64) / "weights").read_text() == "first"
    assert (run.claim("students/a", "2" * 64) / "weights").read_text() == "second"


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with (
        only_driver(tmp_path / "r"),
        pytest.raises(UserError, match="another kdscale command is working"),
        only_driver(tmp_path / "r"),
    ):
        pass
    with only_driver(tmp_path / "r"):
        pass
