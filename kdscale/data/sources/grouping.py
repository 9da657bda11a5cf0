"""Groups: samples that belong together, such as pictures of one airframe or of one camera, are never in two splits.

A net can know a group by what has nothing to do with the classes, so that a test split with groups of the training split's says
too much of it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.errors import UserError


def of(source: Any, group: str) -> NDArray[np.str_]:
    """(N,) the group of each sample of a source.

    Raises:
        UserError: the source knows no groups, or does not find them.
    """
    if not hasattr(source, "group_by"):
        raise UserError(
            "data.group: this source has no groups; take folder, npz or a function of your own, or leave it out"
        )
    found: NDArray[np.str_] = source.group_by(group)
    return found


def check(groups: NDArray[np.str_], rows: dict[str, NDArray[np.int64]], name: str) -> None:
    """Refuse splits that share a group.

    Args:
        rows: the samples of each split.
    """
    splits = {split: set(groups[part].tolist()) for split, part in rows.items()}
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        if both := splits[first] & splits[second]:
            raise UserError(
                f"data.group: the group {min(both)} of {name} is in its {first} and in its {second} split; "
                "move it whole into one of them"
            )


def cut(
    labels: NDArray[np.int64],
    groups: NDArray[np.str_],
    rows: NDArray[np.int64],
    share: float,
    rng: np.random.Generator,
    field: str,
    name: str,
) -> NDArray[np.int64]:
    """Rows to cut, ascending: whole groups at random, about a share (from 1 on a count) of the samples, of which no class is cut whole.

    Raises:
        UserError: no group can be cut without taking a class away.
    """
    wanted = share if share >= 1 else share * len(rows)
    own, of_row = np.unique(groups[rows], return_inverse=True)
    counts = np.zeros((len(own), int(labels.max()) + 1), np.int64)
    np.add.at(counts, (of_row, labels[rows]), 1)
    left, taken = counts.sum(0), np.zeros(len(own), bool)
    for one in rng.permutation(len(own)):
        size, before = counts[one].sum(), counts[taken].sum()
        if abs(before + size - wanted) < abs(before - wanted) and ((left > counts[one]) | (counts[one] == 0)).all():
            taken[one] = True
            left = left - counts[one]
    if not taken.any():
        raise UserError(
            f"{field}: none of the {len(own)} groups of {name} can be kept apart and leave a sample of each class; "
            f"change {field}, or bring more groups"
        )
    return np.sort(rows[taken[of_row]])
