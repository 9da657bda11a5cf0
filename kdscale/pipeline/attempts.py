"""Members that fail: which of them are started again, how, and what is kept of those that are given up.

What counts:

- A crash (a killed process, a lost node, no memory) and an exception are tried again, from the last checkpoint and wherever
  there is room, `teachers.retries` times. An exception may be the node's doing (a full disk, a broken device), and where it
  is a bug in the model it costs little to see it again.
- Starts that got further than the checkpoint before them do not count, so that a long training may lose any number of nodes.
- A loss that is no longer finite is not tried again: the steps are a function of the seed.
- What is wrong with the data stops every member, and ends the command at once.

A pack that was asked to divide (`sharing`) goes on in halves, which counts as nothing.

Members of a pack fail together, whoever raised. After a crash they go on as they were; after an exception, and before their
last retry, each goes on alone, so that those that are innocent finish.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from kdscale.ensemble.replica import Failed, Member, PutBack, Result
from kdscale.errors import NotFinite, RunFailure, UserError, in_a_line
from kdscale.files import write_text
from kdscale.tracking import status
from kdscale.tracking.status import ERROR

NAMED = 10
"""Members that a sentence names."""

Pack = Sequence[Member]


class Attempts:
    """Members from the queue to their weights, or to the report of why they have none.

    Args:
        queue: (pack, whether before all others) hands a pack to the cluster, and sees to it that `ended` or `crashed` is called.
        finished: gets the seed and the checksum of each member that is finished.
        retries: of each member.
    """

    def __init__(self, queue: Callable[[Pack, bool], None], finished: Callable[[int, str], None], retries: int):
        self._queue, self._finished, self._retries = queue, finished, retries
        self._left: dict[int, int] = {}
        self._steps: dict[int, int] = {}
        self.given_up: dict[int, Failed] = {}
        self.out: list[Pack] = []
        """Packs that are queued or running."""

    def begin(self, packs: Iterable[Pack]) -> None:
        for pack in packs:
            for member in pack:
                self._left[member.seed] = self._retries
            self._start(pack, first=False)

    def ended(self, pack: Pack, results: dict[int, Result]) -> None:
        """A pack's process came to its end."""
        self._back(pack)
        divided = [member for member in pack if isinstance(results[member.seed], PutBack)]
        half = (len(divided) + 1) // 2
        for part in (divided[:half], divided[half:]):
            if part:
                self._start(part, first=True)
        again = []
        for member in pack:
            result = results[member.seed]
            if isinstance(result, str):
                with suppress(FileNotFoundError):
                    (member.folder / ERROR).unlink()
                self._finished(member.seed, result)
            elif isinstance(result, Failed) and self._may_retry(member, result):
                again.append(member)
        for member in again:
            self._start([member], first=True)

    def crashed(self, pack: Pack, error: Exception) -> None:
        """A pack's process is gone, or raised what concerns all of it.

        Raises:
            UserError: the user's mistake ends everything.
        """
        from kdscale import cluster

        self._back(pack)
        cause = cluster.cause_of(error)
        if isinstance(cause, UserError):
            raise cause
        failed = Failed(in_a_line(cause))
        failed.traceback, failed.final = cluster.traceback_of(error), isinstance(cause, NotFinite)
        again = [member for member in pack if self._may_retry(member, failed)]
        if isinstance(error, cluster.CRASHES) and all(self._left[member.seed] for member in again):
            if again:
                self._start(again, first=True)
            return
        for member in again:
            self._start([member], first=True)

    def failure(self, run: Path) -> RunFailure | None:
        """One sentence about all that were given up."""
        if not self.given_up:
            return None
        seeds = sorted(self.given_up)
        first = self.given_up[seeds[0]]
        if len(seeds) == 1:
            where = run / "teachers" / f"seed-{seeds[0]}" / ERROR
            return RunFailure(f"teacher seed-{seeds[0]} failed: {first}; the traceback is in {where}")
        named = ", ".join(f"seed-{seed}" for seed in seeds[:NAMED])
        more = f" and {len(seeds) - NAMED} more" if len(seeds) > NAMED else ""
        return RunFailure(
            f"{len(seeds)} teachers failed ({named}{more}), the first: {first}; the tracebacks are in "
            f"{run / 'teachers'}/seed-*/{ERROR}"
        )

    def _back(self, pack: Pack) -> None:
        self.out = [other for other in self.out if list(other) != list(pack)]

    def _start(self, pack: Pack, first: bool) -> None:
        self.out.append(pack)
        for member in pack:
            self._steps[member.seed] = member.checkpoints.step
            status.note(member.folder, "queued", stage="teachers", job=f"seed-{member.seed}", seed=member.seed)
        self._queue(pack, first)

    def _may_retry(self, member: Member, failed: Failed) -> bool:
        """Whether a member may start again; else it is given up."""
        seed = member.seed
        if member.checkpoints.step > self._steps[seed]:
            self._left[seed] = self._retries
        if self._left[seed] and not failed.final:
            self._left[seed] -= 1
            return True
        self.given_up[seed] = failed
        state = status.read(member.folder)
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        node, restarts = state.get("node", "no node yet"), state.get("restarts", 0)
        write_text(
            member.folder / ERROR,
            f"teacher seed-{seed}, given up at {when}, last on {node}, started again {restarts} times\n{failed}\n\n"
            f"{failed.traceback}\n",
        )
        status.note(member.folder, "failed", error=str(failed))
        return False
