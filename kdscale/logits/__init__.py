"""The logit store: what members think of every sample, written once, read by any number of students.

It stores rows by key and knows nothing of teachers or students. `docs/library.md` shows it in use outside of kdscale.
What is named here is loaded when it is asked for, so that commands and `records` start without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdscale.logits.producer import label
    from kdscale.logits.records import Slot, StoreInfo
    from kdscale.logits.store import Store

__all__ = ["Slot", "Store", "StoreInfo", "label"]

_HOMES = {"Slot": "records", "Store": "store", "StoreInfo": "records", "label": "producer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
