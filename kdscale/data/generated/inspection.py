"""Pictures of inspections, drawn: corroded surfaces of airframes, and smoke in a landscape that a camera looks at.

Each picture belongs to a group, its airframe or its camera, whose looks all its pictures share: paint, light and rivets of one,
horizon, sky and hills of the other. A net can learn these instead of what matters, so splits are cut by whole groups:

    data:
      source: kdscale.data.generated.inspection:corrosion      # or :smoke
      group: group
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from kdscale.data.generated import refuse_path
from kdscale.seeds import generator

GRADES = ("none", "light", "moderate", "severe")
FRAMES = ("clear", "smoke")


def corrosion(
    path: str | None = None, airframes: int = 24, pictures: int = 60, size: int = 32, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """`x` (N, size, size, 3) uint8, `y` (N,) grades of `GRADES`, `group` (N,) names of airframes."""
    refuse_path(path, "these pictures")
    x, y, group = [], [], []
    for frame in range(airframes):
        own = generator(seed, 31, frame)
        paint = own.uniform(90, 220, 3)
        streaks, rivets = own.uniform(0, 18), int(own.integers(5, 11))
        mix = own.dirichlet([2.0, 1.0, 1.0, 0.7])  # some airframes are worse than others
        for number in range(pictures):
            random = generator(seed, 32, frame, number)
            grade = int(random.choice(len(GRADES), p=mix))
            x.append(_surface(random, paint, streaks, rivets, grade, size))
            y.append(grade)
            group.append(f"airframe-{frame:02d}")
    return {"x": np.stack(x), "y": np.array(y), "group": np.array(group)}


def smoke(
    path: str | None = None, cameras: int = 24, pictures: int = 60, size: int = 32, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """`x` (N, size, size, 3) uint8, `y` (N,) of `FRAMES`, `group` (N,) names of cameras."""
    refuse_path(path, "these pictures")
    x, y, group = [], [], []
    for camera in range(cameras):
        own = generator(seed, 33, camera)
        hills = gaussian_filter(own.standard_normal(size), 4) * size * 0.4 + size * own.uniform(0.4, 0.65)
        sky, ground = own.uniform((110, 140, 170), (190, 210, 250)), own.uniform((40, 60, 20), (110, 120, 70))
        share = own.uniform(0.15, 0.5)
        for number in range(pictures):
            random = generator(seed, 34, camera, number)
            burning = bool(random.random() < share)
            x.append(_landscape(random, hills, sky, ground, burning, size))
            y.append(int(burning))
            group.append(f"camera-{camera:02d}")
    return {"x": np.stack(x), "y": np.array(y), "group": np.array(group)}


def _blobs(random: np.random.Generator, size: int, scale: float) -> NDArray[np.float64]:
    """(size, size) smooth random numbers about 0 with standard deviation 1."""
    field: NDArray[np.float64] = gaussian_filter(random.standard_normal((size, size)), scale, mode="wrap")
    return np.asarray(field / field.std())


def _surface(
    random: np.random.Generator, paint: NDArray[np.float64], streaks: float, rivets: int, grade: int, size: int
) -> NDArray[np.uint8]:
    picture = np.ones((size, size, 3)) * paint * random.uniform(0.75, 1.15)
    picture += streaks * _blobs(random, size, 3)[:, :1, None]
    offset = int(random.integers(rivets))
    picture[offset::rivets, offset::rivets] *= 0.6
    dirt = _blobs(random, size, 2) > random.uniform(1.4, 2.2)  # brown, but no rust: dull and dark
    picture[dirt] = 0.5 * picture[dirt] + 0.5 * np.array([70, 62, 55])
    if grade:
        edge = {1: 2.0, 2: 1.5, 3: 0.9}[grade] + random.normal(0, 0.12)
        rust = _blobs(random, size, 1.6) > edge
        strength = {1: 0.45, 2: 0.6, 3: 0.75}[grade]
        colour = np.array([150, 75, 35]) + random.normal(0, 15, 3)
        picture[rust] = (1 - strength) * picture[rust] + strength * colour
    return _seen(random, picture)


def _landscape(
    random: np.random.Generator,
    hills: NDArray[np.float64],
    sky: NDArray[np.float64],
    ground: NDArray[np.float64],
    burning: bool,
    size: int,
) -> NDArray[np.uint8]:
    down, across = np.mgrid[:size, :size]
    below = down > hills[across] + random.normal(0, 0.3)
    picture = np.where(below[..., None], ground, sky - 25 * (down / size)[..., None]) * random.uniform(0.7, 1.15)
    picture[below] += 8 * _blobs(random, size, 1.0)[below][:, None]
    cloud = np.clip(_blobs(random, size, 4) - random.uniform(0.3, 1.5), 0, 1) * (down < hills.min() * 0.8)
    picture += (cloud * 60)[..., None]
    if burning:
        foot = int(random.integers(4, size - 4))
        base = hills[foot] + random.uniform(0, 3)
        rise, lean = random.uniform(0.25, 0.6) * size, random.uniform(-0.6, 0.6)
        height = np.clip((base - down) / rise, 0, None)
        width = 1.2 + 5 * height
        plume = np.exp(-(((across - foot - lean * (base - down)) / width) ** 2)) * (down <= base) * (height < 1)
        plume *= np.clip(0.75 + 0.4 * _blobs(random, size, 1.2), 0, 1) * random.uniform(0.45, 0.9)
        picture += plume[..., None] * (random.uniform(60, 130) - picture)
    return _seen(random, picture)


def _seen(random: np.random.Generator, picture: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(picture + random.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
