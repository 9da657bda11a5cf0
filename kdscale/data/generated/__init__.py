"""Data that are made, for experiments that need to know what is in them: functions that a recipe names as its data.source."""

from kdscale.errors import UserError


def refuse_path(path: str | None, what: str) -> None:
    """Nothing is read where data are drawn."""
    if path is not None:
        raise UserError(
            f"data.path: {what} are drawn, nothing is read from {path}; leave it out, or name what reads it, such as "
            "data.source=idx or folder, with data.options={}"
        )
