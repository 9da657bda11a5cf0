"""Recipes: typed, frozen, and every mistake in them one sentence."""

import json
from pathlib import Path

import pytest
import yaml

from kdscale import recipe_files as recipes
from kdscale.errors import UserError
from kdscale.recipe import Recipe

SMALL = {
    "name": "small",
    "teachers": {"model": "mlp"},
    "student": {"model": {"name": "mlp", "hidden": [8]}},
}


@pytest.fixture
def write(tmp_path: Path):
    def _write(tree: object) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
        return path

    return _write


def test_defaults_and_model_names(write) -> None:
    recipe = recipes.load(write(SMALL))
    assert recipe.teachers.count == 5
    assert recipe.teachers.model.name == "mlp"
    assert recipe.student.model.options == {"hidden": [8]}
    assert recipe.teachers.seeds == [0, 1, 2, 3, 4]


def test_overrides_are_read_as_yaml(write) -> None:
    recipe = recipes.load(
        write(SMALL),
        [
            "teachers.count=3",
            "student.temperature=2.5",
            "student.seeds=[1, 2]",
            "teachers.model.hidden=[4, 4]",
            "teachers.lr=1e-2",
        ],
    )
    assert (recipe.teachers.count, recipe.student.temperature, recipe.student.seeds) == (3, 2.5, [1, 2])
    assert recipe.teachers.model.options == {"hidden": [4, 4]}
    assert recipe.teachers.lr == 0.01


def test_a_bare_off_is_a_mode_and_not_false(write) -> None:
    assert recipes.load(write(SMALL), ["tracking.wandb.mode=off"]).tracking.wandb.mode == "off"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("student.temprature=3", "unknown field student.temprature; did you mean temperature?"),
        ("teecher.count=3", "unknown field teecher; did you mean teachers?"),
        ("student.temperature=-1", "student.temperature"),
        ("student.temperature=hot", "student.temperature"),
        ("teachers.batch_size=100", "data.lanes = 8 does not divide"),
        ("student.workers=3", "does not divide data.lanes"),
        ("student.seeds=[1, 1]", "each student needs its own seed"),
        ("fusion=best", "fusion"),
        ("teachers.pack=0", "teachers.pack: is 0; give the number of members"),
        ("teachers.pack=some", "teachers.pack: is some; give the number of members"),
        ("student.divergence=kl", "student.divergence"),
        ("student.alpha=1", "student.alpha"),
        ("student.temperature_end=2", "temperature_end: is 2 and temperature_schedule constant"),
        ("student.temperature_schedule=linear", "linear needs temperature_end"),
        ("student.mixup=-1", "student.mixup"),
        ("teachers.count", "not of the form section.field=value"),
        ("teachers.count.x=1", "count is a value, not a section"),
    ],
)
def test_mistakes_are_named(write, override: str, sentence: str) -> None:
    tree = {**SMALL, "teachers": {"model": "mlp", "count": 5}}
    with pytest.raises(UserError, match=r"recipe\.yaml|override") as caught:
        recipes.load(write(tree), [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_override_at_fault_is_named_and_the_file_where_it_is_the_files(write) -> None:
    for override in ("student.temprature=3", "teecher.count=3", "student.temperature=hot"):
        with pytest.raises(UserError) as caught:
            recipes.load(write(SMALL), ["teachers.count=2", override])
        assert str(caught.value).startswith(f"override '{override}': ")
    for override in ("student.alpha=0.3", "student.fold=true", "fusion.without=[7]"):  # against other fields
        with pytest.raises(UserError) as caught:
            recipes.load(write(SMALL), ["teachers.count=2", "student.hard_weight=0.2", override])
        assert str(caught.value).startswith(f"override '{override}': {override.partition('=')[0]}")
    with pytest.raises(UserError) as caught:
        recipes.load(write({**SMALL, "fusoin": "x"}), ["teachers.count=2"])
    assert "recipe.yaml: unknown field fusoin" in str(caught.value)


def test_files_that_are_no_recipes(write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such recipe"):
        recipes.load(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="line 2: not valid YAML"):
        recipes.load(write("name: x\n  bad: [\n"))
    with pytest.raises(UserError, match="mapping of sections"):
        recipes.load(write("- 1"))
    with pytest.raises(UserError, match="the field student is missing"):
        recipes.load(write({"name": "x", "teachers": {"model": "mlp"}}))


def test_yaml_cannot_make_objects(write) -> None:
    with pytest.raises(UserError, match="not valid YAML"):
        recipes.load(write("name: !!python/object/apply:os.system ['true']\n"))


def test_a_path_that_leads_nowhere_is_one_of_the_current_directory(write, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "there")
    recipe = recipes.load(write(SMALL), ["data.path=../../nowhere/at/../all"])
    assert recipe.data.path == str(tmp_path / "nowhere" / "all")


def test_the_deepspeed_file_is_inlined_from_the_recipes_folder(write, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    monkeypatch.chdir("/")
    recipe = recipes.load(write({**SMALL, "student": {"model": "mlp", "deepspeed": "ds.json"}}))
    assert recipe.student.deepspeed == {"zero_optimization": {"stage": 2}}
    with pytest.raises(UserError, match=r"there is no file .*none.json"):
        recipes.load(write(SMALL), ["student.deepspeed=none.json"])


def test_what_the_deepspeed_file_states_becomes_the_recipes_unless_it_says_otherwise(write, tmp_path: Path) -> None:
    config = {
        "optimizer": {"type": "Adam", "params": {"lr": 0.02, "weight_decay": 0.1}},
        "scheduler": {"type": "WarmupLR"},
    }
    recipe = recipes.load(write({**SMALL, "student": {"model": "mlp", "deepspeed": config}}))
    assert (recipe.student.lr, recipe.student.weight_decay, recipe.student.schedule) == (0.02, 0.1, "constant")
    again = tmp_path / "again.yaml"
    again.write_text(recipe.dump())
    assert recipes.load(again).student == recipe.student
    assert recipes.load(write({**SMALL, "student": {"model": "mlp", "lr": 0.5, "deepspeed": config}})).student.lr == 0.5


@pytest.mark.parametrize(
    "override", ["teachers.epochs=.inf", "student.gpus=0.5", "student.gpus=-1", "teachers.gpus=.nan"]
)
def test_numbers_that_make_no_sense_are_refused(write, override: str) -> None:
    with pytest.raises(UserError, match=override.split("=", maxsplit=1)[0].replace(".", r"\.")):
        recipes.load(write(SMALL), [override])


def test_a_dumped_recipe_reads_back_the_same(write, tmp_path: Path) -> None:
    recipe = recipes.load(write(SMALL), ["data.path=/tmp"])
    again = tmp_path / "again.yaml"
    again.write_text(recipe.dump())
    assert recipes.load(again) == recipe


def test_differences_name_fields_and_values(write) -> None:
    one = recipes.load(write(SMALL))
    two = recipes.load(write(SMALL), ["student.temperature=8", "teachers.model.hidden=[3]"])
    changes = {"student.temperature: 4.0 -> 8.0", "teachers.model.hidden: None -> [3]"}
    assert set(recipes.differences(one, two)) == changes


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("configs/*.yaml")), ids=lambda p: p.name)
def test_the_recipes_that_come_with_kdscale_are_valid(path: Path) -> None:
    assert recipes.load(path).name == path.stem


def test_both_weightings_and_their_contradiction(write) -> None:
    recipe = recipes.load(write(SMALL))
    assert recipe.student.weights == (1.0, 0.1)
    convex = recipes.load(write(SMALL), ["student.alpha=0.25"])
    assert convex.student.weights == (0.75, 0.25)
    assert convex.student.hard_weight == 0
    assert recipes.load(write(convex.dump())).student == convex.student
    with pytest.raises(UserError, match="two weightings of the same term"):
        recipes.load(write(SMALL), ["student.alpha=0.25", "student.hard_weight=0.1"])


def test_codecs_refuse_objectives_that_they_cannot_serve(write) -> None:
    falling = ["student.temperature_schedule=cosine", "student.temperature_end=1"]
    assert recipes.load(write(SMALL), falling).student.temperature_end == 1
    for codec in ("topk", "sampled"):
        with pytest.raises(UserError, match=f"temperature_schedule: {codec} serves only.*take logits.codec dense"):
            recipes.load(write(SMALL), [*falling, f"logits.codec={codec}"])
    assert recipes.load(write(SMALL), ["student.divergence=reverse_kl", "logits.codec=topk"])
    for divergence in ("reverse_kl", "jensen_shannon"):
        with pytest.raises(UserError, match=f"unbiased {divergence}.*take logits.codec dense or topk"):
            recipes.load(write(SMALL), [f"student.divergence={divergence}", "logits.codec=sampled"])


def test_smoothing_needs_labels(write) -> None:
    nothing = ["student.label_smoothing=0.1", "student.hard_weight=0"]
    assert recipes.load(write(SMALL), nothing).student.control
    with pytest.raises(UserError, match="no label is learned from"):
        recipes.load(write(SMALL), [*nothing, "student.control=false"])


def test_several_teachers_are_matched_as_the_recipe_says() -> None:
    tree = {"name": "r", "teachers": {"model": "mlp"}, "student": {"model": "mlp", "match": "mimic_all", "fold": True}}
    assert Recipe.model_validate(tree).student.fold
    with pytest.raises(ValueError, match="mixes their logits first"):
        Recipe.model_validate({**tree, "fusion": "mean_logit"})
    with pytest.raises(ValueError, match="no heads to fold"):
        Recipe.model_validate({**tree, "student": {"model": "mlp", "fold": True}})


def test_an_override_leaves_what_an_alias_copied(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "name: a\nteachers: { model: &net { name: mlp, hidden: [8] } }\nstudent: { model: *net }\n"
    )
    recipe = recipes.load(tmp_path / "a.yaml", ["student.model.dropout=0.5", "fusion.members=[0]"])
    assert recipe.student.model.options == {"hidden": [8], "dropout": 0.5}
    assert recipe.teachers.model.options == {"hidden": [8]}


def test_fields_of_a_fusion_that_was_named_alone_can_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nfusion: mean_logit\nteachers: { model: mlp }\nstudent: { model: mlp }\n")
    recipe = recipes.load(tmp_path / "a.yaml", ["fusion.members=[1]"])
    assert (recipe.fusion.rule, recipe.fused_seeds) == ("mean_logit", [1])
