"""What every source gives: random access to labelled samples, already encoded as a shard holds them."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdscale.data.manifest import SampleSpec
from kdscale.data.shards import Encoded


class Source(Protocol):
    """A labelled dataset somewhere, before it is shards. Opened anew in every importing process."""

    classes: list[str]
    """Class names; a label is an index into them."""
    spec: SampleSpec
    """May take a look at every image; an importing process is told it instead."""
    labels: NDArray[np.int64]
    """(N,) class numbers, all within the classes."""
    splits: NDArray[np.str_] | None
    """(N,) train, validation or test, where the source says so itself; None for a single pool."""

    memory: int
    """Bytes that every process holds that opens the source; bounds how many import it at once."""

    def where(self, index: int) -> str:
        """File, or file and row, of a sample, for messages."""
        ...

    def encode(self, index: int) -> Encoded:
        """Sample `index`, with a key that is unique in the dataset.

        Raises:
            UserError: the sample cannot be read; names the file and the reason.
        """
        ...
