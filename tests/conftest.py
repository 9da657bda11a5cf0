"""What tests share: a small dataset of images made on the spot."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdscale.data import shards
from kdscale.data.manifest import Manifest, SampleSpec
from kdscale.data.shards import Encoded
from kdscale.repeatable import settle

settle()


def make_dataset(folder: Path, sizes: tuple[int, ...] = (30, 25, 20), classes: int = 3, seed: int = 0) -> Manifest:
    """Shards of 6x6 pictures whose class shows as a bright row, with noise; a train and a test split."""
    random = np.random.default_rng(seed)

    def split(name: str, counts: tuple[int, ...]) -> list:
        written = []
        for number, count in enumerate(counts):
            samples = []
            for i in range(count):
                label = int(random.integers(classes))
                pixels = random.integers(0, 120, (6, 6)).astype(np.uint8)
                pixels[label] += 100
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "png")
                samples.append(Encoded(f"{name}-{number}-{i:04d}", "png", buffer.getvalue(), label))
            written.append(shards.write(folder, f"{name}-{number:06d}.tar", samples))
        return written

    manifest = Manifest(
        classes=[str(c) for c in range(classes)],
        sample=SampleSpec(kind="image", shape=(1, 6, 6)),
        mean=[0.3],
        std=[0.2],
        splits={"train": split("train", sizes), "test": split("test", (20,))},
    )
    manifest.save(folder)
    return manifest


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "data")
    return tmp_path / "data"
