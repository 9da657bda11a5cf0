"""Groups are never in two splits: cut whole, and refused where they are on both sides."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdscale.data.importing import split_rows
from kdscale.data.sources import grouping, open_source
from kdscale.errors import UserError
from kdscale.recipe import Data


def pool(folder: Path, groups: int = 20, each: int = 10) -> Path:
    random = np.random.default_rng(0)
    x = random.normal(size=(groups * each, 4)).astype(np.float32)
    np.savez(folder / "a.npz", x=x, y=np.arange(len(x)) % 2, group=np.repeat([f"g{i}" for i in range(groups)], each))
    return folder / "a.npz"


def cut(data: Data) -> tuple[dict[str, np.ndarray], np.ndarray]:
    source = open_source(data.source, data.path, data.options, None)
    assert data.group is not None
    return split_rows(source, data, 0), grouping.of(source, data.group)


def test_splits_share_no_group_and_have_about_the_share_that_was_asked_for(tmp_path: Path) -> None:
    rows, groups = cut(Data(source="npz", path=str(pool(tmp_path)), group="group", test=0.3, validation=0.2))
    sets = [set(groups[rows[split]]) for split in ("train", "validation", "test")]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert len(rows["test"]) == 60
    assert len(rows["validation"]) == 30  # a fifth of what is left, to within half a group
    assert sum(len(part) for part in rows.values()) == 200


def test_a_class_is_never_cut_whole() -> None:
    labels = np.array([0, 0, 1, 1, 0, 0])
    groups = np.array(["a", "a", "b", "b", "c", "c"])
    for seed in range(20):
        taken = grouping.cut(labels, groups, np.arange(6), 0.4, np.random.default_rng(seed), "data.test", "x")
        assert set(groups[taken]) in ({"a"}, {"c"})
    with pytest.raises(UserError, match=r"data.test: none of the 1 groups of x can be kept apart"):
        grouping.cut(labels[:2], groups[:2], np.arange(2), 0.5, np.random.default_rng(0), "data.test", "x")


def test_a_group_on_both_sides_is_refused(tmp_path: Path) -> None:
    x = np.zeros((4, 3), np.float32)
    parts = {"x_train": x, "y_train": np.arange(4) % 2, "group_train": ["a", "a", "b", "b"]}
    np.savez(tmp_path / "b.npz", **parts, x_test=x, y_test=np.arange(4) % 2, group_test=["b", "c", "c", "c"])
    with pytest.raises(UserError, match=r"the group b of .*b.npz is in its train and in its test split"):
        cut(Data(source="npz", path=str(tmp_path / "b.npz"), group="group"))


def test_the_groups_of_pictures_are_in_their_paths(tmp_path: Path) -> None:
    for label in ("clear", "smoke"):
        for camera in range(6):
            for number in range(3):
                place = tmp_path / label / f"camera-{camera}" / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4), 40 * camera).save(place)
    rows, groups = cut(Data(source="folder", path=str(tmp_path), group="(camera-[0-9]+)", test=0.34, validation=0))
    assert set(groups) == {f"camera-{camera}" for camera in range(6)}
    assert not set(groups[rows["train"]]) & set(groups[rows["test"]])
    assert len(rows["test"]) == 12
    for pattern, sentence in (("camera-[0-9]+", "has no group"), ("(plane)", "finds nothing"), ("(", "no regular")):
        with pytest.raises(UserError, match=sentence):
            cut(Data(source="folder", path=str(tmp_path), group=pattern))


def test_sources_and_arrays_without_groups_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.group: .* has no array group beside it"):
        cut(Data(source="digits", group="group"))
    np.savez(tmp_path / "c.npz", x=np.zeros((6, 3), np.float32), y=np.arange(6) % 2, group=["a"] * 5)
    with pytest.raises(UserError, match="6 samples but 5 groups"):
        cut(Data(source="npz", path=str(tmp_path / "c.npz"), group="group"))


def test_a_part_of_the_training_split_can_be_imported(tmp_path: Path) -> None:
    source = open_source("digits", None, {}, None)
    rows = split_rows(source, Data(train=100), 0)
    assert len(rows["train"]) == 100
    assert set(np.bincount(source.labels[rows["train"]])) <= {9, 10, 11}
    whole = split_rows(source, Data(), 0)
    assert rows["test"].tolist() == whole["test"].tolist()
    assert len(split_rows(source, Data(train=0.5), 0)["train"]) == round(0.5 * len(whole["train"]))
