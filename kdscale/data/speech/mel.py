"""Log-mel spectra: frames of a recording as the logarithms of its energy in bands that are even on the mel scale."""

import numpy as np
from numpy.typing import NDArray

WINDOW, HOP = 0.025, 0.010
"""Seconds."""
SPECTRUM = 512


def log_mel(wave: NDArray[np.floating], rate: int, bands: int = 40) -> NDArray[np.float32]:
    """(T, bands) of (N,) samples in [-1, 1], a frame every 10 ms of 25 ms under a Hann window; one frame at least."""
    length, hop = round(WINDOW * rate), round(HOP * rate)
    padded = np.pad(wave, (0, max(0, length - len(wave))))
    starts = np.arange(0, len(padded) - length + 1, hop)
    frames = padded[starts[:, None] + np.arange(length)] * np.hanning(length)
    power = np.abs(np.fft.rfft(frames, SPECTRUM)) ** 2
    return np.log(power @ filters(rate, bands).T + 1e-8).astype(np.float32)


def filters(rate: int, bands: int) -> NDArray[np.float64]:
    """(bands, SPECTRUM / 2 + 1) triangular filters whose centres are even on the mel scale, 2595 log10(1 + f / 700)."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    at = np.fft.rfftfreq(SPECTRUM, 1 / rate)
    up = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(up, down))
