"""Frames, states, and words: log-mel bands, an exact Viterbi, and recordings split by speaker."""

import io
import itertools
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest

from kdscale.data.speech import fsdd, states
from kdscale.data.speech.mel import filters, log_mel
from kdscale.errors import UserError


def best_path(scores: np.ndarray) -> float:
    """By trying every way from the first state to the last, one step at most at a time."""
    frames, count = scores.shape
    best = -np.inf
    for steps in itertools.product((0, 1), repeat=frames - 1):
        path = np.concatenate([[0], np.cumsum(steps)])
        if path[-1] == count - 1:
            best = max(best, scores[np.arange(frames), path].sum())
    return best


@pytest.mark.parametrize(("frames", "count"), [(3, 3), (6, 3), (8, 5), (5, 1)])
def test_viterbi_finds_the_best_of_all_paths(frames: int, count: int) -> None:
    for seed in range(5):
        scores = np.random.default_rng(seed).normal(size=(frames, count))
        assert states.viterbi(scores) == pytest.approx(best_path(scores))


def test_a_word_shorter_than_its_states_still_has_a_score() -> None:
    assert np.isfinite(states.viterbi(np.zeros((2, 5))))


def test_the_word_is_the_one_whose_states_come_in_order() -> None:
    scores = np.full((6, 2 * 3), -5.0)
    scores[np.arange(6), [3, 3, 4, 4, 5, 5]] = 0
    assert states.word(scores, 3) == 1
    assert states.word(scores[::-1], 3) == 1  # no other word is better, though its states come backwards
    scores[:, :3] = -2.0
    assert states.word(scores[::-1], 3) == 0


def test_segments_are_even_and_in_order() -> None:
    assert states.segments(10, 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert states.segments(3, 5).tolist() == [0, 1, 3]


def test_a_tone_is_loudest_in_its_band() -> None:
    rate, bands = 8000, 40
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), bands + 2)[1:-1] / 2595) - 1)
    for band in (8, 20, 33):
        frames = log_mel(np.sin(2 * np.pi * centres[band] * np.arange(rate) / rate), rate, bands)
        assert frames.shape == (98, bands)
        assert abs(int(frames.mean(0).argmax()) - band) <= 1
    assert (filters(rate, bands).sum(1) > 0).all()
    assert len(log_mel(np.zeros(10), rate)) == 1


def recordings(folder: Path) -> None:
    random = np.random.default_rng(0)
    folder.mkdir()
    for digit, speaker, take in itertools.product(range(2), ("ann", "bob", "theo"), range(3)):
        with wave.open(str(folder / f"{digit}_{speaker}_{take}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes((random.normal(size=2000 + 400 * digit) * 3000).astype("<i2").tobytes())


def test_recordings_are_split_by_speaker_from_a_folder_and_from_a_tar(tmp_path: Path) -> None:
    recordings(tmp_path / "wav")
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "wav", "recordings")
    options = {"held_out": ["theo"], "validation": 1, "context": 6, "heard": 4, "every": 2}
    made = fsdd.load(str(tmp_path / "wav"), **options)
    packed = fsdd.load(str(tmp_path / "a.tar.xz"), **options)
    for name, array in made.items():
        np.testing.assert_array_equal(array, packed[name])
    frames = [1 + (n - 200) // 80 for n in (2000, 2400)]
    assert len(made["y_test"]) == sum(len(range(take % 2, n, 2)) for n in frames for take in range(3))
    assert len(made["y_validation"]) == sum(2 * len(range(0, n, 2)) for n in frames)
    assert made["x_train"].shape[1:] == (6, 40)
    assert set(made["y_test"].tolist()) == set(range(10))  # two digits of five states
    parts = fsdd.split_of(fsdd.utterances(str(tmp_path / "wav")), ["theo"], 1)
    assert sum(len(fsdd.places(one, 2)) for one in parts["test"]) == len(made["y_test"])


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("no")
    with pytest.raises(UserError, match="there are no recordings"):
        fsdd.load(str(tmp_path))
    (tmp_path / "1_ann_0.wav").write_bytes(io.BytesIO(b"RIFFnope").getvalue())
    with pytest.raises(UserError, match=r"1_ann_0.wav: cannot be read as a wav file"):
        fsdd.load(str(tmp_path))


def test_without_recordings_the_digits_are_read_by_columns() -> None:
    made = fsdd.load(None)
    assert made["x_train"].shape[1:] == (26, 8)
    assert set(made["y_train"].tolist()) == set(range(50))
