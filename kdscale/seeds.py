"""Seeds derived from seeds, so that each use of chance has its own and none depends on another's history."""

import hashlib

LIMIT = 2**63
"""Seeds are below this, so that they fit every generator in use."""


def derive(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, a function of its arguments alone: ``derive(3, "dropout", step, rank)``."""
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % LIMIT
