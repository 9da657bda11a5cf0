"""Codecs: what they promise of every row, whatever its shape, ties and extremes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kdscale.errors import UserError
from kdscale.logits import codecs
from kdscale.logits.dense import Dense
from kdscale.logits.rows import Logits, Sparse, narrowest
from kdscale.logits.sampled import Sampled, add, counts_of, pack, to_sparse, token_type
from kdscale.logits.topk import TopK


def rows_of(values: st.SearchStrategy[float], most: int = 40) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 6), st.integers(2, most))
    return hnp.arrays(np.float32, shapes, elements=values)


plain = rows_of(st.floats(-30, 30, width=32))
wide = rows_of(st.floats(-60000, 60000, width=32))
tied = rows_of(st.sampled_from([-2.0, 0.0, 0.0, 3.0]))
masked = rows_of(st.sampled_from([-np.inf, -1.0, 0.0, 5.0])).map(
    lambda z: np.concatenate([z, np.zeros((len(z), 1), np.float32)], 1)
)


def there_and_back(
    codec: codecs.Codec, z: np.ndarray, temperature: float = 1.0, u: np.ndarray | None = None
) -> Logits | Sparse:
    draws = np.full(len(z), 0.5) if u is None else u
    return codec.decode(pa.table(codec.encode(z, draws)), z.shape[1], temperature)


def softmax(z: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp((z.astype(np.float64) - z.max(1, keepdims=True)) / temperature)
    return e / e.sum(1, keepdims=True)


def scattered(rows: Sparse, classes: int) -> np.ndarray:
    whole = np.zeros((len(rows), classes))
    np.add.at(whole, (np.arange(len(rows))[:, None], rows.ids), rows.p)
    return whole


def test_int8_keeps_rows_of_one_value() -> None:
    z = np.array([[1e-45] * 3, [-7.3] * 3, [3.4e38] * 3], np.float32)
    assert np.array_equal(there_and_back(Dense("int8"), z).values, z)


@settings(deadline=None, max_examples=80)
@given(wide)
@example(np.arange(0, 180, 6, np.int32).view(np.float32)[None])  # the scale rounds to one step of float32
def test_dense_errs_by_no_more_than_it_says(z: np.ndarray) -> None:
    spread = (z.max(1, keepdims=True).astype(np.float64) - z.min(1, keepdims=True)) / 508
    bounds = {
        "float32": np.zeros_like(z),
        "float16": np.maximum(np.abs(z) * 2.0**-11, 2.0**-25),
        "bfloat16": np.maximum(np.abs(z) * 2.0**-8, 2.0**-130),
        "int8": spread * 1.001 + np.abs(z).max().astype(np.float64) * 2.0**-22 + 2.0**-142,
    }
    for dtype, bound in bounds.items():
        back = there_and_back(Dense(dtype), z)
        assert isinstance(back, Logits)
        assert back.values.shape == z.shape
        assert (np.abs(back.values.astype(np.float64) - z) <= bound).all(), dtype


@settings(deadline=None, max_examples=80)
@given(st.one_of(plain, tied, masked), st.integers(1, 50), st.sampled_from([1.0, 4.0]))
def test_topk_heads_and_tails_are_the_true_ones(z: np.ndarray, k: int, temperature: float) -> None:
    classes = z.shape[1]
    rows = there_and_back(TopK(k, [1.0, 4.0]), z, temperature)
    assert isinstance(rows, Sparse)
    assert rows.ids.shape == (len(z), min(k, classes))
    assert all(len(set(ids)) == len(ids) for ids in rows.ids.tolist())
    assert np.allclose(rows.p.sum(1) + rows.tail, 1, atol=1e-5)
    true = softmax(z, temperature)
    for row in range(len(z)):
        kept = np.sort(true[row, rows.ids[row]])
        assert np.allclose(kept, np.sort(true[row])[classes - len(kept) :])  # the largest, ties in any order
        assert np.allclose(rows.p[row], true[row, rows.ids[row]], rtol=0.05, atol=1e-6)
        assert np.allclose(rows.tail[row], 1 - kept.sum(), rtol=0.05, atol=1e-5)


@settings(deadline=None, max_examples=80)
@given(st.one_of(plain, tied, masked), st.integers(1, 40), st.floats(0, 0.999), st.sampled_from([1.0, 3.0]))
def test_sampled_counts_are_the_expected_ones_rounded_up_or_down(
    z: np.ndarray, n: int, u: float, temperature: float
) -> None:
    rows = there_and_back(Sampled(n, temperature), z, temperature, np.full(len(z), u))
    assert isinstance(rows, Sparse)
    counts = scattered(rows, z.shape[1]) * n
    assert np.allclose(counts.sum(1), n)
    assert (np.abs(counts - n * softmax(z, temperature)) < 1 + 1e-4).all()
    assert not rows.tail.any()


def test_sampled_is_unbiased() -> None:
    z = np.random.default_rng(0).normal(size=(3, 30)).astype(np.float32) * 2
    grid = (np.arange(2000) + 0.5) / 2000
    mean = np.mean([scattered(there_and_back(Sampled(5), z, 1.0, np.full(3, u)), 30) for u in grid], 0)
    assert np.abs(mean - softmax(z, 1.0)).max() < 1e-3


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 200_000),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 199_999), st.integers(1, 300)), min_size=1, max_size=30),
)
def test_tokens_hold_any_class_and_any_count(classes: int, triples: list[tuple[int, int, int]]) -> None:
    row, ids, counts = (np.array(column) for column in zip(*triples, strict=True))
    row, ids, counts = add(row, ids % classes, counts, classes)
    back = counts_of(pack(row, ids, counts, 5, classes), classes)
    for one, other in zip(back, (row, ids, counts), strict=True):
        assert (one == other).all()


def test_members_add_up_in_any_order() -> None:
    random = np.random.default_rng(1)
    z = random.normal(size=(3, 4, 20)).astype(np.float32)
    columns = [Sampled(6).encode(member, random.random(4))["tokens"] for member in z]
    triples = [counts_of(column, 20) for column in columns]

    def merged(order: list[int]) -> Sparse:
        joined = [np.concatenate([triples[m][part] for m in order]) for part in range(3)]
        return to_sparse(*add(*joined, classes=20), rows=4)

    one, other = merged([0, 1, 2]), merged([2, 0, 1])
    assert (scattered(one, 20) == scattered(other, 20)).all()
    separate = np.mean([scattered(to_sparse(*t, rows=4), 20) for t in triples], 0)
    assert np.allclose(scattered(one, 20), separate)


def test_topk_does_not_mind_how_large_logits_are() -> None:
    z = np.array([[7.0, 5.0, 1.0, 0.0]], np.float32)
    near, far = (there_and_back(TopK(2, [1.0]), z + shift) for shift in (0, 1e5))
    assert np.allclose(near.p, far.p, atol=0.01)
    assert np.allclose(near.tail, far.tail, atol=0.01)


def test_types_are_the_narrowest_that_hold_the_classes() -> None:
    assert [narrowest(c).itemsize for c in (2, 256, 257, 65536, 65537, 200_000)] == [1, 1, 2, 2, 4, 4]
    assert [token_type(c).itemsize for c in (2, 1000, 4096, 4097, 200_000)] == [2, 2, 2, 4, 4]


@pytest.mark.parametrize("classes", [2, 10, 1000, 200_000])
def test_rows_take_the_bytes_that_are_planned(classes: int) -> None:
    z = np.random.default_rng(0).normal(size=(64, classes)).astype(np.float32)
    for codec in (
        Dense("float16"),
        Dense("bfloat16"),
        Dense("float32"),
        Dense("int8"),
        TopK(32, [1.0, 4.0]),
        Sampled(12),
    ):
        table = pa.table(codec.encode(z, np.full(64, 0.3)))
        planned = codec.bytes_per_row(classes)
        assert table.nbytes / 64 <= planned + 0.1
        assert isinstance(codec, Sampled) or table.nbytes / 64 == pytest.approx(planned)


def test_an_ensemble_of_a_thousand_classes_takes_24_bytes_a_sample() -> None:
    """Five members, twelve draws between them: merged counts of peaked predictions."""
    random = np.random.default_rng(0)
    z = random.normal(size=(1, 500, 1000)) * 2 + np.where(np.arange(1000) < 3, 6, 0)
    triples = [
        counts_of(Sampled(n).encode(z[0].astype(np.float32), random.random(500))["tokens"], 1000)
        for n in (3, 3, 2, 2, 2)
    ]
    joined = add(*(np.concatenate([t[part] for t in triples]) for part in range(3)), classes=1000)
    assert pack(*joined, rows=500, classes=1000).nbytes / 500 <= 24


def test_what_a_codec_cannot_give_is_refused_with_what_could() -> None:
    z = np.zeros((2, 5), np.float32)
    with pytest.raises(
        UserError, match=r"serves T = 1, 4, not 2; add it to logits.temperatures, or take logits.codec dense"
    ):
        there_and_back(TopK(3, [1.0, 4.0]), z, 2.0)
    with pytest.raises(UserError, match=r"sampled codec serves T = 3, not 1"):
        there_and_back(Sampled(4, 3.0), z, 1.0)
    with pytest.raises(UserError, match=r"logits\.codec: zip is not one of dense, topk, sampled"):
        codecs.make("zip")


@pytest.mark.parametrize(
    "codec", [Dense("int8"), TopK(7, [1.0, 2.0]), Sampled(9, 2.5)], ids=lambda c: c.describe()["name"]
)
def test_a_codec_is_found_by_its_description(codec: codecs.Codec) -> None:
    assert codecs.from_description(codec.describe()) == codec


def test_a_parameter_that_a_codec_does_not_have_is_named() -> None:
    with pytest.raises(UserError, match=r"logits\.codec topk has no parameter kk; it has k, temperatures"):
        codecs.from_description({"name": "topk", "kk": 3})
    with pytest.raises(UserError, match="has no name; give one of dense, topk, sampled"):
        codecs.from_description({"k": 3})


@pytest.mark.parametrize(
    ("description", "match"),
    [
        (
            {"name": "dense", "dtype": "float64"},
            r"logits\.dtype: float64 is not one of float16, bfloat16, float32, int8",
        ),
        ({"name": "topk", "k": 0}, r"logits\.k: 0 is not a number of classes"),
        ({"name": "topk", "temperatures": 4.0}, r"logits\.temperatures: 4.0 is not a list"),
        ({"name": "topk", "temperatures": [0.0]}, "temperature: 0.0 is not a positive number"),
        ({"name": "sampled", "draws": 0}, r"logits\.draws: 0 is not a number of draws"),
        ({"name": "sampled", "temperature": 0}, "temperature: 0 is not a positive number"),
    ],
)
def test_parameters_that_make_no_sense_are_sentences(description: dict, match: str) -> None:
    with pytest.raises(UserError, match=match):
        codecs.from_description(description)


def test_many_rows_are_sampled_as_few_are(monkeypatch) -> None:
    z, u = np.random.default_rng(0).normal(size=(50, 30)).astype(np.float32), np.linspace(0, 0.99, 50)
    whole = Sampled(7).encode(z, u)["tokens"]
    monkeypatch.setattr("kdscale.logits.sampled._AT_ONCE", 100)
    assert Sampled(7).encode(z, u)["tokens"] == whole
    assert len(Sampled(7).encode(z[:0], u[:0])["tokens"]) == 0
