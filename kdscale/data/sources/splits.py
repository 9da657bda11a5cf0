"""The names by which files and arrays say which split they belong to."""

import re

SYNONYMS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def of_name(name: str) -> str | None:
    """The split that a file's or folder's base name begins with (`val-000.tar`, `test.npz`), or None."""
    first = re.match(r"[a-z]*", name.lower())
    assert first is not None
    return SYNONYMS.get(first[0])
