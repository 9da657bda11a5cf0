"""The ensemble: members that differ only in their seed, and the rules that fuse them.

What is named here is loaded when it is asked for, so that commands start without PyTorch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdscale.ensemble.targets import Targets

__all__ = ["Targets"]


def __getattr__(name: str) -> Any:
    if name != "Targets":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kdscale.ensemble.targets import Targets

    return Targets
