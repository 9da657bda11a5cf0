"""Packs that run are shared out when there is room beside them: nodes that join late are used, and so are places that fall free.

The driver leaves a word in the folder of a pack's first member; the pack saves, ends and comes back to the queue in halves. Members
trained in smaller packs, or alone, have the bits that they would have had.
"""

import time
from collections.abc import Callable, Sequence

from kdscale.ensemble.replica import DIVIDE, Member
from kdscale.tracking import status

WORTH = 60.0
"""Seconds that a pack must have left for a division to be worth a start."""
EVERY = 5.0
"""Seconds between two looks."""


class Sharing:
    """Looks whether a pack is to be divided.

    Args:
        places: how many processes the cluster can run now.
        packs: those that are queued or running.
    """

    def __init__(self, places: Callable[[], int], packs: Callable[[], Sequence[Sequence[Member]]]):
        self._places, self._packs = places, packs
        self._looked = time.monotonic()
        self._asked: set[tuple[int, ...]] = set()

    def look(self) -> None:
        """Ask the pack with the most members to divide, where places are free and it has long to go."""
        if time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        packs = self._packs()
        # a pack that was asked counts twice: its second half is on its way
        if len(packs) + sum(_seeds(pack) in self._asked for pack in packs) >= self._places():
            return
        able = [pack for pack in packs if len(pack) > 1 and _seeds(pack) not in self._asked and _left(pack) > WORTH]
        if able:
            pack = max(able, key=len)
            self._asked.add(_seeds(pack))
            (pack[0].folder / DIVIDE).touch()


def _seeds(pack: Sequence[Member]) -> tuple[int, ...]:
    return tuple(member.seed for member in pack)


def _left(pack: Sequence[Member]) -> float:
    """Seconds that a pack still takes; 0 where it does not run yet."""
    state = status.read(pack[0].folder)
    if state.get("state") != "running" or not state.get("rate"):
        return 0.0
    return float((state["steps"] - state["step"]) / state["rate"])
