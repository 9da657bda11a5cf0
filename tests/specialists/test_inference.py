"""Joint inference finds the optimum, which another method in float64 finds too."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdscale.errors import UserError
from kdscale.specialists.inference import Joint, joint, objective
from kdscale.specialists.sets import ClassSets

Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor, ClassSets]


def reference(p: np.ndarray, own: np.ndarray, dustbin: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Primal interior-point method: Newton on q itself, with a barrier that shrinks to nothing.

    p (C,), own (M, C) spread over all classes, dustbin (M,), members (M, C) bool. Independent of the dual.
    """
    a, outside = p + own.sum(0), (~members).astype(float)
    q = np.full(len(p), 1 / len(p))
    for barrier in 10.0 ** -np.arange(1, 16):
        weight = a + barrier / len(p)
        for _ in range(60):
            left = outside @ q
            gradient = -weight / q - outside.T @ (dustbin / left)
            hessian = np.diag(weight / q**2) + outside.T @ ((dustbin / left**2)[:, None] * outside)
            scaled = hessian * q[:, None] * q[None]  # in units of q, where it is well conditioned
            system = np.block([[scaled, q[:, None]], [q[None], np.zeros((1, 1))]])
            answer = np.linalg.lstsq(system, np.append(-gradient * q, 1 - q.sum()), rcond=1e-15)[0]
            step = answer[:-1]
            length = min(1.0, 0.95 / max(1e-300, -step.min()))
            q = q * (1 + length * step)
            if np.abs(step).max() < 1e-11:
                break
    return q / q.sum()


def problem(classes: int, sets: list[list[int]], batch: int, seed: int, sharpness: float = 1.0) -> Problem:
    laid = ClassSets.of(sets, classes)
    random = torch.Generator().manual_seed(seed)

    def softmax(*shape: int) -> torch.Tensor:
        return (sharpness * torch.randn(*shape, generator=random, dtype=torch.float64)).softmax(-1)

    own = torch.full((batch, *laid.classes.shape), torch.nan, dtype=torch.float64)
    dustbin = torch.empty(batch, len(sets), dtype=torch.float64)
    for number, one in enumerate(sets):
        full = softmax(batch, len(one) + 1)
        own[:, number, : len(one)], dustbin[:, number] = full[:, :-1], full[:, -1]
    return softmax(batch, classes), own, dustbin, laid


def solve_reference(given_: Problem, active: torch.Tensor) -> torch.Tensor:
    p, own, dustbin, sets = given_
    rows = []
    for row in range(len(p)):
        chosen = active[row].nonzero()[:, 0].tolist()
        spread = np.zeros((len(chosen), p.shape[1]))
        for slot, number in enumerate(chosen):
            filled = sets.filled[number]
            spread[slot, sets.classes[number][filled].numpy()] = own[row, number][filled].numpy()
        rows.append(reference(p[row].numpy(), spread, dustbin[row, chosen].numpy(), sets.members[chosen].numpy()))
    return torch.tensor(np.array(rows))


def assert_optimal(given_: Problem, found: Joint, unique: bool = True) -> None:
    expected = solve_reference(given_, found.active)
    value, best = (objective(*given_, found.active, q) for q in (found.q, expected))
    assert (value - best).abs().max() < 1e-9
    if unique:
        assert (found.q - expected).abs().max() < 1e-6
    assert (found.q >= 0).all()
    assert (found.q.sum(1) - 1).abs().max() < 1e-9
    assert found.residual.max() < 1e-9


@st.composite
def class_sets(draw: st.DrawFn, overlap: bool) -> tuple[int, list[list[int]]]:
    classes = draw(st.integers(6, 24))
    if overlap:
        count = draw(st.integers(1, 10))
        one = st.sets(st.integers(0, classes - 1), min_size=1, max_size=classes - 1).map(sorted)
        return classes, draw(st.lists(one, min_size=count, max_size=count))
    order = draw(st.permutations(range(classes)))
    cuts = sorted(draw(st.sets(st.integers(1, classes - 1), min_size=1, max_size=5)))
    return classes, [order[a:b] for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]


SEEDS = st.integers(0, 2**31)
fast = settings(max_examples=20, deadline=None)


@fast
@given(class_sets(overlap=False), SEEDS, st.sampled_from([0.1, 1.0, 4.0]), st.integers(1, 4))
def test_disjoint_sets(case, seed, sharpness, n):
    given_ = problem(*case, 4, seed, sharpness)
    assert_optimal(given_, joint(*given_, n=n))


@fast
@given(class_sets(overlap=True), SEEDS, st.sampled_from([0.1, 1.0, 4.0]), st.integers(1, 4))
def test_overlapping_sets(case, seed, sharpness, n):
    given_ = problem(*case, 4, seed, sharpness)
    assert_optimal(given_, joint(*given_, n=n))


def test_ten_overlapping_specialists_all_active():
    random = np.random.default_rng(3)
    given_ = problem(30, [random.permutation(30)[:12].tolist() for _ in range(10)], 16, 1, 2.0)
    assert_optimal(given_, joint(*given_, active=torch.ones(16, 10, dtype=torch.bool)))


HARD = ("one_hot", "uniform", "zeros", "tiny_dustbin", "no_dustbin", "full_dustbin", "one_hot_everywhere")


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("kind", HARD)
def test_extremes(kind, overlap):
    sets = [[0, 1, 2, 3], [2, 3, 4, 5], [5, 6, 0]] if overlap else [[0, 1, 2], [3, 4], [5, 6]]
    p, own, dustbin, laid = problem(10, sets, 12, 5)
    hot = torch.eye(10, dtype=torch.float64)[torch.arange(12) % 10]
    if kind.startswith("one_hot"):
        p = hot
    if kind == "one_hot_everywhere":
        own = torch.zeros_like(own)
        own[:, :, 0], dustbin = 1.0, torch.zeros_like(dustbin)
    if kind == "uniform":
        p = torch.full_like(p, 0.1)
        for number, one in enumerate(sets):
            own[:, number], dustbin[:, number] = 1 / (len(one) + 1), 1 / (len(one) + 1)
    if kind == "zeros":
        p[:, ::2] = 0
        p, own[:, :, 1] = p / p.sum(1, keepdim=True), 0.0
        norm = torch.where(laid.filled, own, 0).sum(2) + dustbin
        own, dustbin = own / norm[:, :, None], dustbin / norm
    wanted = {"tiny_dustbin": 1e-13, "no_dustbin": 0.0, "full_dustbin": 1.0}.get(kind)
    if wanted is not None:
        own = own / torch.where(laid.filled, own, 0).sum(2)[:, :, None] * (1 - wanted)
        dustbin = torch.full_like(dustbin, wanted)
    given_ = p, own, dustbin, laid
    for active in (None, torch.ones(12, 3, dtype=torch.bool)):
        found = joint(*given_, active=active)
        assert_optimal(given_, found, unique=not kind.startswith("one_hot"))


def test_no_active_specialist_gives_the_generalist():
    given_ = problem(8, [[0, 1]], 6, 0)
    found = joint(*given_, active=torch.zeros(6, 1, dtype=torch.bool))
    assert (found.q == given_[0]).all()
    assert (found.residual == 0).all()


@fast
@given(class_sets(overlap=True), SEEDS)
def test_an_image_does_not_depend_on_its_batch(case, seed):
    p, own, dustbin, laid = problem(*case, 5, seed)
    together = joint(p, own, dustbin, laid, n=2)
    for row in range(5):
        alone = joint(p[row : row + 1], own[row : row + 1], dustbin[row : row + 1], laid, n=2)
        assert (alone.q[0] - together.q[row]).abs().max() < 1e-10


@fast
@given(class_sets(overlap=True), SEEDS)
def test_float32_agrees_with_float64(case, seed):
    p, own, dustbin, laid = problem(*case, 5, seed)
    exact, single = joint(p, own, dustbin, laid), joint(p.float(), own.float(), dustbin.float(), laid)
    same = (exact.active == single.active).all(1)
    assert single.q.dtype == torch.float32
    assert (exact.q - single.q)[same].abs().max() < 1e-5
    assert single.residual.max() < 1e-9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees_with_cpu():
    p, own, dustbin, laid = problem(12, [[0, 1, 2], [2, 3, 4], [7, 8]], 40, 0)
    cpu, gpu = joint(p, own, dustbin, laid), joint(p.cuda(), own.cuda(), dustbin.cuda(), laid.to("cuda"))
    assert (cpu.q - gpu.q.cpu()).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("sets", "words"),
    [([], "no class sets"), ([[]], "empty"), ([[1, 1]], "twice"), ([[0, 9]], "9, outside"), ([[0, 1, 2]], "all 3")],
)
def test_refuses_bad_sets(sets, words):
    with pytest.raises(UserError, match=words):
        ClassSets.of(sets, 3)


def test_refuses_bad_shapes():
    p, own, dustbin, laid = problem(8, [[0, 1]], 6, 0)
    with pytest.raises(UserError, match="dustbin has shape"):
        joint(p, own, dustbin[:3], laid)
    with pytest.raises(UserError, match="float16"):
        joint(p.half(), own, dustbin, laid)


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs" / "specialists.md").read_text()
    names: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["q"].sum().item() == pytest.approx(1)
    assert names["residual"].max() < 1e-9


def test_an_empty_batch_is_an_empty_batch():
    p, own, dustbin, laid = problem(8, [[0, 1], [1, 2]], 3, 0)
    assert joint(p[:0], own[:0], dustbin[:0], laid).q.shape == (0, 8)


def test_images_with_none_disjoint_and_overlapping_specialists_in_one_batch():
    given_ = problem(12, [[0, 1, 2], [2, 3, 4], [5, 6]], 4, 2)
    found = joint(*given_, active=torch.tensor([[0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0]]).bool())
    assert_optimal(given_, found)
    assert (found.q[0] == given_[0][0]).all()
