"""Codecs by name: how a row of C logits lies in a block, what it costs, and what can be read back.

What is read back is one of two things, and everything downstream works on these alone: `Logits`, from which any
temperature and any fusion can be had, or `Sparse`, a distribution at one temperature on a few classes and, where the
codec knows it, the mass of all others in one bucket.
"""

from typing import Any, Protocol

import pyarrow as pa
from numpy.typing import NDArray

from kdscale.errors import UserError
from kdscale.logits.dense import Dense
from kdscale.logits.rows import Logits, Sparse
from kdscale.logits.sampled import Sampled
from kdscale.logits.topk import TopK


class Codec(Protocol):
    """One way of storing rows."""

    def describe(self) -> dict[str, Any]:
        """Name and parameters, as the store's description holds them."""
        ...

    @property
    def temperatures(self) -> list[float] | None:
        """Those it serves; None for any."""
        ...

    @property
    def compression(self) -> str | None:
        """Of a block's columns: None for what is read by mapping."""
        ...

    @property
    def limit(self) -> float:
        """The largest logit, of either sign, that it holds."""
        ...

    @property
    def draws_lots(self) -> bool:
        """Whether `encode` uses its chance."""
        ...

    def bytes_per_row(self, classes: int) -> float:
        """Bytes of a row without its key: exact where rows have one size, else the most."""
        ...

    def encode(self, logits: NDArray[Any], draws: NDArray[Any]) -> dict[str, pa.Array]:
        """(N, C) float32 logits within the limit -> columns; `draws` (N,) float64 in [0, 1) is all the chance there is."""
        ...

    def decode(self, table: pa.Table, classes: int, temperature: float) -> Logits | Sparse:
        """What a block says at a temperature.

        Raises:
            UserError: the codec does not serve this temperature; says which it serves.
        """
        ...


def make(name: str, **parameters: Any) -> Codec:
    """The codec of that name."""
    kinds: dict[str, Any] = {"dense": Dense, "topk": TopK, "sampled": Sampled}
    if name not in kinds:
        raise UserError(f"logits.codec: {name} is not one of {', '.join(kinds)}")
    unknown = set(parameters) - set(kinds[name].__dataclass_fields__)
    if unknown:
        known = ", ".join(kinds[name].__dataclass_fields__)
        raise UserError(f"logits.codec {name} has no parameter {min(unknown)}; it has {known}")
    codec: Codec = kinds[name](**parameters)
    return codec


def from_description(description: dict[str, Any]) -> Codec:
    """The codec that a store's description names."""
    if "name" not in description:
        raise UserError(f"codec: {description} has no name; give one of dense, topk, sampled")
    return make(**description)
