"""Drawn inspections: what a group has in common, and what the classes show."""

import numpy as np

from kdscale.data.generated.inspection import GRADES, corrosion, smoke


def test_every_airframe_has_its_paint_and_all_grades_are_there() -> None:
    made = corrosion(airframes=8, pictures=20)
    assert made["x"].shape == (160, 32, 32, 3)
    assert made["x"].dtype == np.uint8
    assert set(made["y"].tolist()) == set(range(len(GRADES)))
    colour = made["x"].mean((1, 2))
    within = np.mean([colour[made["group"] == name].std(0).mean() for name in set(made["group"])])
    assert within < 0.6 * colour.std(0).mean()


def test_rust_makes_a_surface_redder() -> None:
    made = corrosion(airframes=12, pictures=30)
    red = made["x"][..., 0].astype(float) - made["x"][..., 2]
    bluest = [red[(made["y"] == grade)].std((1, 2)).mean() for grade in (0, 3)]
    assert bluest[1] > 1.5 * bluest[0]


def test_smoke_and_clear_skies_share_their_cameras() -> None:
    made = smoke(cameras=6, pictures=30)
    for name in set(made["group"]):
        assert set(made["y"][made["group"] == name].tolist()) == {0, 1}
    np.testing.assert_array_equal(made["x"], smoke(cameras=6, pictures=30)["x"])
