"""Ways of selecting the 32 largest logits of a row, side by side, and what the top-k codec makes of it."""

import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from figures import Figure, Options, ratio, side_by_side, table
from numpy.typing import NDArray

from kdscale.logits.selection import largest
from kdscale.logits.topk import TopK

K = 32
Way = Callable[[NDArray[np.float32]], object]


def selection(options: Options) -> list[Figure]:
    """Rows a second of each way at 1,000 and 15,000 classes, on one thread and on two."""
    found = []
    before = torch.get_num_threads()
    for classes in (1000, 15_000):
        z = peaked_rows((400_000 if options.quick else 4_000_000) // classes, classes)
        _check(z)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found += _compared(z, threads, rounds=5 if options.quick else 15)
        torch.set_num_threads(1)
        found += _encoding(z, rounds=3 if options.quick else 9)
    torch.set_num_threads(before)
    return found


def peaked_rows(rows: int, classes: int) -> NDArray[np.float32]:
    """(N, C) Gaussian logits with a few classes far above the others, as of a trained network."""
    random = np.random.default_rng(0)
    z = random.normal(size=(rows, classes)).astype(np.float32) * 2
    for _ in range(5):
        z[np.arange(rows), random.integers(0, classes, rows)] += random.uniform(3, 12, rows).astype(np.float32)
    return z


def _compared(z: NDArray[np.float32], threads: int, rounds: int) -> list[Figure]:
    classes = z.shape[1]
    times = side_by_side([partial(way, z) for way in WAYS.values()], rounds)
    ours = times[-1]
    speed = {name: len(z) / statistics.median(column) for name, column in zip(WAYS, times, strict=True)}
    rows = [
        [name, f"{speed[name]:,.0f}", f"{1e6 / speed[name]:.2f}", f"{ratio(ours, column):.2f}"]
        for name, column in zip(WAYS, times, strict=True)
    ]
    print(f"\n{K} of {classes:,} classes, {len(z)} rows, threads: {threads}")
    print(table(["way", "rows/s", "us/row", "ours takes, of its time"], rows), flush=True)
    best = max((name for name in WAYS if name != OURS), key=speed.__getitem__)
    where = f"C={classes}, {threads} thread{'s' if threads > 1 else ''}"
    figures = [Figure(f"select {K}: {name}, {where}", speed[name], "rows/s") for name in WAYS]
    bound = "<= 1.0"
    name = f"select {K}: our time over that of the best other way ({best}), {where}"
    return [*figures, Figure(name, ratio(ours, times[list(WAYS).index(best)]), "ratio", bound)]


def _encoding(z: NDArray[np.float32], rounds: int) -> list[Figure]:
    """The whole codec against the plain way of writing it, with the same outcome."""
    codec, none = TopK(K, [1.0, 4.0]), np.zeros(len(z))
    ours, plain = side_by_side([lambda: codec.encode(z, none), lambda: _plain_encode(z)], rounds)
    where = f"C={z.shape[1]}, T=1 and 4, 1 thread"
    return [
        Figure(f"encode top-{K} with tails: ours, {where}", len(z) / statistics.median(ours), "rows/s"),
        Figure(
            f"encode top-{K} with tails: torch.topk and logsumexp, {where}", len(z) / statistics.median(plain), "rows/s"
        ),
        Figure(
            f"encode top-{K} with tails: our time over the plain way's, {where}", ratio(ours, plain), "ratio", "<= 1.0"
        ),
    ]


def _plain_encode(rows: NDArray[np.float32]) -> object:
    z = torch.from_numpy(rows)
    head, ids = z.topk(K, 1)
    rest = (z - head[:, :1]).scatter(1, ids, -torch.inf)
    return head - head[:, :1], ids, torch.stack([(rest / t).logsumexp(1) for t in (1.0, 4.0)], 1)


def _check(z: NDArray[np.float32]) -> None:
    """All ways find the same values."""
    true = np.sort(z, 1)[:, : -K - 1 : -1]
    for name, way in WAYS.items():
        values = np.asarray(way(z)[0])  # type: ignore[index]
        assert (values == true).all(), f"{name} selects other values"


def _topk(z: NDArray[np.float32]) -> object:
    return torch.from_numpy(z).topk(K, 1)


def _topk_unsorted(z: NDArray[np.float32]) -> object:
    values, ids = torch.from_numpy(z).topk(K, 1, sorted=False)
    values, order = values.sort(1, descending=True)
    return values, ids.gather(1, order)


def _sort(z: NDArray[np.float32]) -> object:
    values, ids = torch.from_numpy(z).sort(1, descending=True)
    return values[:, :K], ids[:, :K]


def _argpartition(z: NDArray[np.float32]) -> object:
    return _ordered(z, np.argpartition(z, z.shape[1] - K, 1)[:, -K:])


def _partition_and_mask(z: NDArray[np.float32]) -> object:
    """The k-th largest value by partitioning values alone, then whatever reaches it; rows with ties are cut down."""
    bound = np.partition(z, z.shape[1] - K, 1)[:, z.shape[1] - K, None]
    mask = z >= bound
    for row in np.flatnonzero(np.count_nonzero(mask, 1) > K):
        ties = np.flatnonzero(z[row] == bound[row])
        mask[row, ties[len(ties) - (np.count_nonzero(mask[row]) - K) :]] = False
    return _ordered(z, np.flatnonzero(mask).reshape(-1, K) % z.shape[1])


def _groups(size: int, z: NDArray[np.float32]) -> object:
    """Two stages: the k groups of the largest maxima, then the largest of what they hold."""
    t = torch.from_numpy(z)
    count = t.shape[1] // size
    inside = t[:, : count * size].view(len(t), size, count)
    best = inside.amax(1).topk(K, 1, sorted=False).indices
    ids = (best[:, None] + count * torch.arange(size)[None, :, None]).flatten(1)
    ids = torch.cat([ids, torch.arange(count * size, t.shape[1]).expand(len(t), -1)], 1)
    values, order = t.gather(1, ids).topk(K, 1)
    return values, ids.gather(1, order)


def _chunked_topk(z: NDArray[np.float32]) -> object:
    step = max(1, (1 << 16) // z.shape[1])
    parts = [torch.from_numpy(z[start : start + step]).topk(K, 1) for start in range(0, len(z), step)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _ordered(z: NDArray[np.float32], ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    values = np.take_along_axis(z, ids, 1)
    order = np.argsort(-values, 1)
    return np.take_along_axis(values, order, 1), np.take_along_axis(ids, order, 1)


OURS = "kdscale.logits.selection"
WAYS: dict[str, Way] = {
    "torch.topk": _topk,
    "torch.topk unsorted, then sort": _topk_unsorted,
    "torch.topk in chunks of 64 Ki values": _chunked_topk,
    "torch.sort": _sort,
    "np.argpartition": _argpartition,
    "np.partition, then mask": _partition_and_mask,
    "groups of 5, two torch.topk": partial(_groups, 5),
    "groups of 16, two torch.topk": partial(_groups, 16),
    OURS: lambda z: largest(z, K),
}
