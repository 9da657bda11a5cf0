"""What a member labels and what a student sees are the same pixels, for every key and view."""

from pathlib import Path

import torch

from kdscale.data.batches import Batches, Pixels
from kdscale.data.dataset import Dataset
from kdscale.data.order import Order
from kdscale.logits.producer import label_shard
from kdscale.logits.records import StoreInfo
from kdscale.logits.store import Store
from kdscale.recipe import ViewSpec


def test_pixels_are_equal_on_both_sides(dataset_folder: Path, tmp_path: Path) -> None:
    dataset = Dataset(dataset_folder, "train")
    spec = ViewSpec(jitter=1, flip=True, rotate=20, scale=0.2)
    pixels = Pixels(dataset.manifest, True, spec, 5, torch.device("cpu"))
    store = Store.create(tmp_path / "store", StoreInfo(dataset=dataset.manifest.fingerprint, classes=3))
    labelled: dict[tuple[int, int], torch.Tensor] = {}
    for view in range(3):
        for number, shard in enumerate(dataset.shards):
            seen: list[torch.Tensor] = []

            def predict(x: torch.Tensor, seen=seen) -> torch.Tensor:
                seen.append(x.clone())
                return torch.zeros(len(x), 3)

            label_shard(store, dataset, number, view, "m", "w", predict, pixels, batch_size=7)
            labelled[number, view] = torch.cat(seen)
            assert len(labelled[number, view]) == shard.samples

    def join(number: int, decoded, view: int, epoch: int) -> dict[str, torch.Tensor]:
        return {"labelled": labelled[number, view].flatten(1)}

    order = Order(dataset.sizes, 0, 8, 4, 16)
    batches = Batches(dataset, order, pixels, lambda epoch: epoch % 3, range(4), join)
    for step in range(order.steps(3)):
        batch = batches(step)
        assert torch.equal(batch.x.flatten(1), batch.targets["labelled"])
    assert not torch.equal(labelled[0, 0], labelled[0, 1])
