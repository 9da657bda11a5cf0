"""The mark of a finished job: `done.json`, written after the weights that it vouches for."""

from pathlib import Path

from kdscale.files import read_json, sha256, write_json

WEIGHTS = "weights.safetensors"
DONE = "done.json"


def finished(folder: Path, fingerprint: str) -> str | None:
    """The sha256 of a job's weights if it was finished under this fingerprint."""
    done = read_json(folder / DONE)
    return done["weights"] if done is not None and done["fingerprint"] == fingerprint else None


def mark(folder: Path, fingerprint: str, **facts: object) -> str:
    """Vouch for the weights that lie in the folder; their sha256."""
    checksum = sha256(folder / WEIGHTS)
    write_json(folder / DONE, {"fingerprint": fingerprint, "weights": checksum, **facts})
    return checksum
