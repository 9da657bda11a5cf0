"""Live: targets from a store that members are still being added to.

A student may begin when a quorum of members has labelled a shard, takes in more as they come, and needs all of them
in its last epoch. Who was there is a matter of timing, so it is decided once for each epoch, shard and view, and written
down before it is used: all ranks read the same decision, and so does a restart, which hence sees the same targets.

    JOB/members/epoch-0003/view-000/SHARD.json    {"seed-0": "sha256 of its weights", ...}
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdscale.errors import RunFailure, Stopped
from kdscale.logits.places import Folder
from kdscale.logits.records import Slot
from kdscale.logits.store import Store

POLL = 0.5
"""Seconds between two looks at a shard that is waited for."""


@dataclass
class Live:
    """Who counts for each shard of each epoch."""

    store: Store
    names: list[str]
    """The whole ensemble's members."""
    trained: Callable[[], Mapping[str, str]]
    """The members whose weights are final by now, and the hashes of those."""
    decisions: Path
    """A folder that all ranks share."""
    quorum: int
    """Members that the first epoch waits for."""
    epochs: float
    """Of the whole training."""
    deadline: float
    """Seconds without any news after which waiting ends in a failure."""
    news: Callable[[], object] = lambda: None
    """Something that changes as long as members are being trained."""
    stopped: Callable[[], bool] = lambda: False

    @property
    def members(self) -> dict[str, str]:
        """Those that are trained at this moment."""
        trained = self.trained()
        return {name: trained[name] for name in self.names if name in trained}

    def needed(self, epoch: int) -> int:
        """Members that an epoch waits for: the quorum at first, all in the last, evenly more in between."""
        last = math.ceil(self.epochs) - 1
        if epoch >= last:
            return len(self.names)
        return math.ceil(self.quorum + (len(self.names) - self.quorum) * min(1.0, epoch / last) - 1e-9)

    def present(self, shard: str, view: int, epoch: int) -> dict[str, str]:
        """The members whose targets an epoch uses for a shard, waiting for as many as it needs.

        Raises:
            Stopped: while waiting.
            RunFailure: nothing new came within the deadline.
        """
        folder = Folder(self.decisions)
        path = f"epoch-{epoch:04d}/{Slot(shard, view, 'of').path.removeprefix('of/')}.json"
        if (decided := _read(folder, path)) is not None:
            return decided
        needed, since = self.needed(epoch), time.monotonic()
        seen: object = None
        while True:
            there = {
                name: checkpoint
                for name, checkpoint in self.members.items()
                if self.store.record(Slot(shard, view, name), checkpoint) is not None
            }
            if len(there) >= needed:
                break
            if (now := (len(there), self.news())) != seen:
                seen, since = now, time.monotonic()
            if self.stopped():
                raise Stopped("while waiting for logits")
            if time.monotonic() - since > self.deadline:
                raise RunFailure(
                    f"{self.store.name}: {len(there)} of {len(self.names)} members have labelled {shard}, view {view}, and "
                    f"epoch {epoch} waits for {needed}; none came within student.deadline = {self.deadline:g} s: see "
                    "kdscale status for what the members do"
                )
            time.sleep(POLL)
        if folder.create(path, [json.dumps(there).encode()]):
            return there
        decided = _read(folder, path)
        assert decided is not None
        return decided


def _read(folder: Folder, path: str) -> dict[str, str] | None:
    try:
        decided: dict[str, str] = json.loads(bytes(folder.read(path)))
        return decided
    except FileNotFoundError:
        return None
