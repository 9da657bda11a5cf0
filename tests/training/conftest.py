"""The process group of the tests that need one."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from support import ranks


@pytest.fixture(scope="session")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process is a group of one; DeepSpeed keeps what it knows of its first group, so there is no other."""
    ranks.join(0, 1, tmp_path_factory.mktemp("group") / "store")
    yield
    dist.destroy_process_group()
