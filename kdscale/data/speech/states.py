"""States of words, and the left-to-right Viterbi search that makes words of the states that a net hears.

Every word has the same number of states, which are passed in order. Where no alignment is known, a word's frames are cut into as
many even stretches: pseudo-states, in the place of a hidden Markov model's.
"""

import numpy as np
from numpy.typing import NDArray


def segments(frames: int, states: int) -> NDArray[np.int64]:
    """(T,) the number of each frame's state within its word, 0 to states - 1, in even stretches."""
    return np.arange(frames) * states // max(frames, 1)


def viterbi(scores: NDArray[np.floating]) -> float:
    """The best sum of scores over all ways through a word's states, from the first to the last, none passed over.

    Args:
        scores: (T, S), log-probabilities of a word's states at each frame. With fewer frames than states the path may end
            where the frames do.
    """
    frames, states = scores.shape
    best = np.full(states, -np.inf)
    best[0] = scores[0, 0]
    for frame in range(1, frames):
        entered = np.concatenate([[-np.inf], best[:-1]])
        best = np.maximum(best, entered) + scores[frame]
    return float(best[min(frames, states) - 1])


def word(scores: NDArray[np.floating], states: int) -> int:
    """The word whose states explain an utterance best.

    Args:
        scores: (T, W x states), word by word.
    """
    words = scores.reshape(len(scores), -1, states)
    return int(np.argmax([viterbi(words[:, number]) for number in range(words.shape[1])]))
