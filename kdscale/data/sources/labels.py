"""What labels may be: whole numbers from 0 up, with a name for each class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.errors import UserError


def whole_numbers(where: str, values: Any) -> NDArray[np.int64]:
    """Labels as (N,) int64; integer-valued floats and (N, 1) columns are taken too.

    Raises:
        UserError: not a column, not whole numbers, or negative; names the row.
    """
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = "; take the argmax of one-hot labels" if array.ndim == 2 else ""
        raise UserError(f"{where}: labels have shape {array.shape} where one number a sample is expected{hint}")
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where}: labels of type {array.dtype} are not class numbers; store integers from 0 up")
    with np.errstate(invalid="ignore"):
        labels: NDArray[np.int64] = array.astype(np.int64)
    for bad, reason in ((labels != array, "not a whole number"), (labels < 0, "negative")):
        if bad.any():
            row = int(np.argmax(bad))
            raise UserError(
                f"{where} row {row}: the label {array[row]} is {reason}; class numbers count from 0, so mend or drop it"
            )
    return labels


def class_names(where: str, labels: NDArray[np.int64], given: Any = None) -> list[str]:
    """The names given, checked against the labels, or "0" to the highest label."""
    if len(labels) == 0:
        raise UserError(f"{where}: there are no samples; give data that holds some")
    highest = int(labels.max())
    if given is None:
        if highest >= len(labels):
            raise UserError(
                f"{where}: the label {highest} with only {len(labels)} samples leaves classes without any; "
                "number the classes from 0 without gaps"
            )
        return [str(number) for number in range(highest + 1)]
    if not isinstance(given, list) or not all(isinstance(name, str | int) for name in given):
        raise UserError("data.options.classes: must be a list of class names, such as [cat, dog]")
    names = [str(name) for name in given]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"data.options.classes: {twice} is there twice; give each class its own name")
    if highest >= len(names):
        raise UserError(
            f"{where} row {int(labels.argmax())}: the label {highest} is outside the classes 0 to {len(names) - 1}; "
            "mend the label or data.options.classes"
        )
    return names
