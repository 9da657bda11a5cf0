"""Covers: the fewest bytes that give the same ensemble."""

from kdscale.ensemble.covers import Part, cheapest
from kdscale.logits.records import Fused, Maker

WANTED = {f"seed-{m}": f"w{m}" for m in range(5)}
SIZE = {**dict.fromkeys(WANTED, 100.0), "a": 100.0, "b": 100.0, "c": 100.0, "all": 100.0}


def fused(name: str, members: list[int], weights: dict[str, float] | None = None, temperature=4.0, **made) -> Maker:
    names = [f"seed-{m}" for m in members]
    total = sum((weights or {}).get(n, 1.0) for n in names)
    shares = {n: (weights or {}).get(n, 1.0) / total for n in names}
    parts = {"members": {n: WANTED[n] for n in names}, "weights": shares, "rule": "mean_probability", **made}
    return Maker(
        dataset="d",
        split="train",
        views="v",
        member=name,
        checkpoint=f"of {name}",
        fused=Fused(**parts, temperature=temperature),
        codec={"name": "dense", "dtype": "float16"},
        temperatures=None if temperature is None else [temperature],
    )


def names(sets: list[Maker], weights: dict[str, float] | None = None, wanted=None, t=4.0) -> list[tuple[str, float]]:
    parts = cheapest(wanted or WANTED, weights or {}, "mean_probability", t, sets, SIZE)
    return [(part.member, part.weight) for part in parts]


def test_without_sets_the_members_are_read() -> None:
    assert cheapest(WANTED, {"seed-1": 2.0}, "mean_logit", 1.0, [], SIZE) == [
        Part(name, checkpoint, 2.0 if name == "seed-1" else 1.0) for name, checkpoint in WANTED.items()
    ]


def test_disjoint_sets_of_fewest_bytes_win_and_carry_their_members_weight() -> None:
    a, b, c = fused("a", [0, 1]), fused("b", [2, 3]), fused("c", [1, 2, 3])
    assert names([a]) == [("a", 2.0), ("seed-2", 1.0), ("seed-3", 1.0), ("seed-4", 1.0)]
    assert names([a, b]) == [("a", 2.0), ("b", 2.0), ("seed-4", 1.0)]
    assert names([c, a]) == [("c", 3.0), ("seed-0", 1.0), ("seed-4", 1.0)]
    assert names([c, a, b, fused("all", [0, 1, 2, 3, 4])]) == [("all", 5.0)]


def test_a_set_that_costs_more_than_its_members_is_left() -> None:
    dear = {**SIZE, "a": 250.0}
    assert all(p.member != "a" for p in cheapest(WANTED, {}, "mean_probability", 4.0, [fused("a", [0, 1])], dear))


def test_sets_of_other_weights_members_rules_or_temperatures_do_not_serve() -> None:
    plain = [(name, 1.0) for name in WANTED]
    assert names([fused("a", [0, 1], {"seed-0": 3.0})]) == plain
    assert names([fused("a", [0, 1], rule="mean_logit")]) == plain
    assert names([fused("a", [0, 1])], t=2.0) == plain
    assert names([fused("a", [0, 1], temperature=None)], t=2.0)[0] == ("a", 2.0)
    assert names([fused("a", [0, 1])], wanted={**WANTED, "seed-0": "trained anew"}) == plain
    assert names([fused("a", [0, 1])], wanted={"seed-0": "w0"}) == [("seed-0", 1.0)]
    heavy = {"seed-0": 3.0}
    assert names([fused("a", [0, 1], heavy)], heavy) == [("a", 4.0), ("seed-2", 1.0), ("seed-3", 1.0), ("seed-4", 1.0)]
