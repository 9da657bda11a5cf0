"""Labelling by networks that kdscale did not train: what may come in, and what is said when it does not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdscale.errors import UserError
from kdscale.logits import Slot, Store, StoreInfo, label

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
KEYS = [f"sample-{row}" for row in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    codec = {"name": "dense", "dtype": "float32"}
    return Store.create(tmp_path / "store", StoreInfo(dataset="mine", classes=4, codec=codec))


@pytest.mark.parametrize(
    ("predict", "x"),
    [
        (lambda x: x * 2, torch.from_numpy(X)),
        (lambda x: x * 2, X),
        (lambda x: x.astype(np.float64) * 2, X),
        (lambda x: (2 * np.array(x)).tolist(), X.tolist()),
        (torch.nn.Linear(4, 4), torch.from_numpy(X)),
    ],
    ids=["tensors", "arrays", "doubles", "lists", "a network with gradients"],
)
def test_any_callable_from_batch_to_logits_is_a_teacher(store: Store, predict, x) -> None:
    assert label(store, "teacher", "v1", predict, [("part", KEYS, x)], batch_size=2) == 1
    expected = torch.as_tensor(predict(x)).detach().float().numpy()
    assert np.allclose(store.read(Slot("part", 0, "teacher")).logits, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "predict", "sentence"),
    [
        (KEYS, lambda x: x[:, :3], r"needs logits of shape \(5, 4\) .* teacher gave \(5, 3\)"),
        (KEYS, lambda x: x[:1], r"needs logits of shape \(5, 4\) .* teacher gave \(1, 4\)"),
        (KEYS[:4], lambda x: x, "shard part came with 4 keys for 5 inputs"),
        ([*KEYS[:4], KEYS[0]], lambda x: x, "shard part has the key sample-0 twice"),
        (range(5), lambda x: x, r"shard part has the key 0; keys are strings, so give str\(key\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(store: Store, keys, predict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        label(store, "teacher", "v1", predict, [("part", keys, X)])
    assert not list(store.listing())
