"""Keys are unique in a dataset: checked over the hashes that also name samples to the generators."""

import numpy as np
from numpy.typing import NDArray

from kdscale.errors import UserError


def refuse_repeats(found: list[tuple[str, NDArray[np.uint64]]]) -> None:
    """Refuse a key that is in two shards, given as (name, ids)."""
    ids = np.concatenate([ids for _, ids in found])
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(same):
        ends = np.cumsum([len(ids) for _, ids in found])
        one, other = (found[int(np.searchsorted(ends, order[same[0] + n], side="right"))][0] for n in (0, 1))
        raise UserError(f"{other}: repeats a key of {one}; keys must be unique in a dataset, so rename its samples")
