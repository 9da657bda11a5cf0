"""A group of ranks: without a place for it, and when its ranks do not end at once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdscale.cluster import Needs
from kdscale.cluster.crashes import LostRank
from kdscale.errors import Stopped

pytestmark = pytest.mark.slow
ONE = Needs(1)


@pytest.fixture
def ray_with() -> Iterator[Callable[[int], None]]:
    import ray

    yield lambda cpus: ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    ray.shutdown()


def test_a_group_without_a_place_comes_back_once_the_nodes_have_no_room_for_it(ray_with, monkeypatch) -> None:
    from kdscale.cluster import group

    monkeypatch.setattr(group, "PATIENCE", 1.0)
    ray_with(1)
    waiting = group.Group(2, ONE, 0.0)
    waiting.start(print, ())
    assert not waiting.settled()
    time.sleep(1.1)
    assert waiting.settled()
    with pytest.raises(LostRank, match="a node left before its ranks were placed"):
        waiting.result()


def test_ranks_that_were_told_to_go_are_given_the_time_to_say_so(ray_with, tmp_path: Path) -> None:
    """Rank 0 keeps the record; were it killed when another rank has ended, a clean stop would be taken for a crash."""
    from kdscale.cluster.group import Group

    def stops(folder: Path) -> None:
        import torch.distributed as dist

        if dist.get_rank() == 0:
            time.sleep(2)
            (folder / "said").touch()
        raise Stopped("saved after step 7")

    ray_with(2)
    group = Group(2, ONE, 0.0)
    group.start(stops, (tmp_path,))
    while not group.settled():
        time.sleep(0.05)
    with pytest.raises(Stopped, match="saved after step 7"):
        group.result()
    assert (tmp_path / "said").exists()
