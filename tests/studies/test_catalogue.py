"""Every study has a recipe that loads in both forms, a module, and a section in the docs."""

from pathlib import Path

import pytest
import yaml

from kdscale import recipe_files
from kdscale.errors import UserError
from kdscale.studies.catalogue import RECIPES, STUDIES, Study, named

DOCS = Path(__file__).parents[2] / "docs" / "studies.md"


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_recipes_load_in_both_forms(study: Study) -> None:
    full = recipe_files.load(study.recipe)
    quick = recipe_files.load(study.recipe, list(study.module.QUICK))
    assert full.name == quick.name == study.name
    assert callable(study.module.measure)
    few, many = study.module.SEEDS
    assert 1 <= few <= many
    fallback = getattr(study.module, "FALLBACK", ())
    assert recipe_files.load(study.recipe, [*study.module.QUICK, *fallback]).data


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_recipes_are_whole(study: Study) -> None:
    """An installed recipe has no neighbours to refer to, but for data, which may be elsewhere."""
    tree = yaml.safe_load(study.recipe.read_text())
    assert not any(isinstance(tree[part].get("deepspeed"), str) for part in ("teachers", "student"))


def test_every_recipe_is_of_a_study() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {study.name for study in STUDIES}


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_page_has_a_section_for_each(study: Study) -> None:
    assert f"\n## {study.name}\n" in DOCS.read_text()


def test_a_misspelt_study_is_told_its_neighbour() -> None:
    with pytest.raises(UserError, match="there is no study hinton-mnits; did you mean hinton-mnist"):
        named("hinton-mnits")
