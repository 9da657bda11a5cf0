"""The Free Spoken Digit Dataset as frames with context: 3,000 recordings of ten digits by six speakers, 8 kHz.

    data:
      source: kdscale.data.speech.fsdd:load
      path: fsdd.tar.xz      # or the folder of its wav files; without one, scikit-learn's digits, whose columns are the frames
      options: { states: 5, every: 2, held_out: [theo, yweweler] }

A sample is `context` frames, of which the one at `heard` is to be told: its class is the word's digit and the stretch of the word
that it is from. No speaker of the test split is in another one.
"""

import io
import re
import tarfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdscale.data.speech.mel import log_mel
from kdscale.data.speech.states import segments
from kdscale.errors import UserError

NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
SPEAKERS = 6
"""Into which the digits are dealt that stand in for recordings."""


@dataclass(frozen=True)
class Utterance:
    """A recording: frames of one word."""

    digit: int
    speaker: str
    take: int
    frames: NDArray[np.float32]
    """(T, bands)"""


def load(
    path: str | None = None,
    states: int = 5,
    context: int = 26,
    heard: int = 20,
    every: int = 2,
    held_out: Sequence[str] = ("theo", "yweweler"),
    validation: int = 5,
) -> dict[str, Any]:
    """Frames as pictures (N, context, bands) uint8, and their states' numbers, of the three splits.

    Args:
        states: of each word.
        context: frames of a sample, and `heard` the index of the one that is classified; ends are repeated.
        every: takes one frame of so many.
        held_out: speakers of the test split.
        validation: takes of each digit and speaker for the validation split.
    """
    made: dict[str, Any] = {}
    for split, part in split_of(utterances(path), held_out, validation).items():
        if not part:
            raise UserError(
                f"data.options: no recording is left for the {split} split; name other speakers in held_out"
            )
        pictures, labels = zip(*(_samples(one, states, context, heard, every) for one in part), strict=True)
        made[f"x_{split}"], made[f"y_{split}"] = np.concatenate(pictures), np.concatenate(labels)
    return made


def split_of(every: Sequence[Utterance], held_out: Sequence[str], validation: int) -> dict[str, list[Utterance]]:
    """The recordings of each split, in order."""
    ours = [one for one in every if one.speaker not in held_out]
    return {
        "train": [one for one in ours if one.take >= validation],
        "validation": [one for one in ours if one.take < validation],
        "test": [one for one in every if one.speaker in held_out],
    }


def places(utterance: Utterance, every: int) -> NDArray[np.int64]:
    """The frames of an utterance that are samples: one of `every`, the first one another for each take."""
    frames = len(utterance.frames)
    return np.arange(utterance.take % min(every, frames), frames, every)


def utterances(path: str | None) -> list[Utterance]:
    """All recordings, by digit, speaker and take.

    Raises:
        UserError: there is nothing at `path`, or no recording in it.
    """
    if path is None:
        return _columns()
    place, found = Path(path), []
    if place.is_dir() and not any(place.rglob("*.wav")):
        place = next(iter(sorted(place.glob("*.tar*"))), place)
    if place.is_dir():
        named = ((file.name, file.read_bytes()) for file in sorted(place.rglob("*.wav")))
        found = [_recording(name, payload) for name, payload in named if NAME.fullmatch(name)]
    elif place.exists():
        try:
            with tarfile.open(place) as tar:
                for member in tar:
                    if NAME.fullmatch(name := Path(member.name).name) and (file := tar.extractfile(member)) is not None:
                        found.append(_recording(name, file.read()))
        except tarfile.TarError as error:
            raise UserError(f"{place}: cannot be unpacked ({error}); fetch it again") from None
    if not found:
        raise UserError(
            f"data.path: there are no recordings such as 7_jackson_32.wav at {place}; give their folder or tar"
        )
    return sorted(found, key=lambda one: (one.digit, one.speaker, one.take))


def _recording(name: str, payload: bytes) -> Utterance:
    match = NAME.fullmatch(name)
    assert match is not None
    try:
        with wave.open(io.BytesIO(payload)) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise UserError(f"{name}: is not mono with 16 bits a sample; convert it")
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
            frames = log_mel(samples, file.getframerate())
    except (wave.Error, EOFError) as error:
        raise UserError(f"{name}: cannot be read as a wav file ({error}); fetch it again") from None
    return Utterance(int(match[1]), match[2], int(match[3]), frames)


def _columns() -> list[Utterance]:
    """Scikit-learn's digits, read column by column as if they were spoken."""
    from sklearn.datasets import load_digits

    data, names = load_digits(), ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    found = []
    for digit in range(10):
        for number, picture in enumerate(data.images[data.target == digit]):
            frames = np.repeat(picture.T, 2, 0).astype(np.float32)
            found.append(Utterance(digit, names[number % SPEAKERS], number // SPEAKERS, frames))
    return found


def _samples(
    utterance: Utterance, states: int, context: int, heard: int, every: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    frames = utterance.frames
    scaled = (frames - frames.mean(0)) / (frames.std() + 1e-6)  # each band about its mean, as recordings differ in it
    pixels = np.clip(128 + 40 * scaled, 0, 255).astype(np.uint8)
    at = places(utterance, every)
    seen = np.clip(at[:, None] + np.arange(context) - heard, 0, len(frames) - 1)
    return pixels[seen], utterance.digit * states + segments(len(frames), states)[at]
