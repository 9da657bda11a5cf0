"""Voting rules: textbook elections, what each rule promises, and a slow count of the same elections."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import elections

from kdscale.ensemble.voting import RULES, Ballots, ballots, elect, pairwise, whole_ballots
from kdscale.errors import UserError

CONDORCET = ["copeland", "simpson", "condorcet", "schulze", "kemeny", "baldwin", "nanson"]
"""Rules that elect the class that beats every other one, where there is one."""


def logits_of(profile: dict[str, int], names: str) -> torch.Tensor:
    """(M, 1, C) logits of members that rank as told: `{"ABC": 3}` is three members with A first."""
    ballots_ = [ballot for ballot, count in profile.items() for _ in range(count)]
    return torch.tensor([[[-1.0 * ballot.index(name) for name in names]] for ballot in ballots_])


def winners(profile: dict[str, int], names: str) -> dict[str, str]:
    return {rule: names[int(won)] for rule, won in elect(logits_of(profile, names)).items()}


def test_the_capital_of_tennessee() -> None:
    """Memphis, Nashville, Chattanooga, Knoxville: the example that the literature's articles share."""
    won = winners({"MNCK": 42, "NCKM": 26, "CKNM": 15, "KCNM": 17}, "MNCK")
    assert won.pop("plurality") == "M"
    assert won.pop("stv") == "K"
    assert set(won.values()) == {"N"}


def test_a_majority_that_borda_passes_over() -> None:
    won = winners({"ABC": 3, "BCA": 2}, "ABC")
    assert won["borda"] == won["symmetric_borda"] == "B"
    assert {won[rule] for rule in (*CONDORCET, "plurality", "bucklin", "stv", "dowdall")} == {"A"}


def test_schulzes_own_example() -> None:
    """45 voters, five candidates, no Condorcet winner: Schulze 2011, section 3, where E wins."""
    profile = {"ACBED": 5, "ADECB": 5, "BEDAC": 8, "CABED": 3, "CAEBD": 7, "CBADE": 2, "DCEBA": 7, "EBADC": 8}
    won = winners(profile, "ABCDE")
    assert won["schulze"] == "E"
    assert won["plurality"] == "C"
    ballots_ = Ballots.of(logits_of(profile, "ABCDE"))
    assert RULES["copeland"](ballots_)[0].tolist() == [0, 0, 0, -2, 2]
    assert RULES["simpson"](ballots_)[0].tolist() == [-5, -13, -11, -21, -3]
    assert RULES["condorcet"](ballots_)[0].tolist() == [0] * 5


def test_a_cycle_is_broken_by_summed_probability() -> None:
    """A > B > C, B > C > A, C > A > B; the third member is the surest, and A has the least probability altogether."""
    won = elect(torch.tensor([[[0.0, -1.0, -2.0]], [[-2.0, 0.0, -1.0]], [[-4.0, -8.0, 0.0]]]))
    eliminate = [int(won.pop(name)) for name in ("stv", "baldwin")]
    assert eliminate == [1, 1]  # A goes, and of the others B is above C twice
    assert {int(winner) for winner in won.values()} == {2}


def test_scores_by_hand() -> None:
    ballots_ = Ballots.of(logits_of({"ABCD": 2, "BCDA": 1, "CDBA": 2}, "ABCD"))
    scores = {name: RULES[name](ballots_)[0].tolist() for name in RULES}
    assert scores["plurality"] == [2, 1, 2, 0]
    assert scores["borda"] == [6, 9, 10, 5]
    assert scores["symmetric_borda"] == [-3, 3, 5, -5]
    assert scores["dowdall"] == pytest.approx([2 + 3 / 4, 1 + 1 + 2 / 3, 2 + 1 / 2 + 2 / 3, 2 / 4 + 1 / 3 + 1])
    # more than half: A and D only with all places, B with two (3 of 5), C with two (3 of 5)
    assert scores["bucklin"] == [5 - 6 * 3, 3 - 6 * 1, 3 - 6 * 1, 3 - 6 * 2]
    assert ballots_.margins[0].tolist() == [[0, -1, -1, -1], [1, 0, 1, 1], [1, -1, 0, 5], [1, -1, -5, 0]]
    assert scores["copeland"] == [-3, 3, 1, -1]
    assert scores["simpson"] == [-1, 1, -1, -5]
    assert scores["condorcet"] == [0, 1, 0, 0]
    assert scores["stv"] == [2, 1, 3, 0]
    assert scores["baldwin"] == [1, 3, 2, 0]
    assert scores["nanson"] == [0, 2, 1, 0]
    assert scores["schulze"].index(0) == scores["kemeny"].index(max(scores["kemeny"])) == 1


def test_members_that_cannot_decide_rank_as_the_ensemble_does() -> None:
    z = torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 1.0, 3.0]]])
    assert Ballots.of(z).ranks[0].tolist() == [[2, 1, 0]]


def test_equal_in_everything_is_the_smaller_number() -> None:
    assert {int(won) for won in elect(torch.zeros(3, 1, 4)).values()} == {0}


profiles = st.integers(2, 5).flatmap(lambda classes: st.lists(st.permutations(range(classes)), min_size=1, max_size=6))
"""Ballots of one to six members on two to five classes."""


def drawn_logits(profile: Sequence[Sequence[int]]) -> torch.Tensor:
    """(M, 1, C) logits in the order of the ballots, each member with a scale of its own, so that sums do not tie."""
    z = torch.empty(len(profile), 1, len(profile[0]), dtype=torch.float64)
    for member, ballot in enumerate(profile):
        for rank, name in enumerate(ballot):
            z[member, 0, name] = -(rank**1.1) * (0.5 + 0.37 * member) - 0.013 * name * (member + 1) / len(ballot)
    return z


@settings(max_examples=80, deadline=None)
@given(profiles)
def test_every_rule_is_its_definition(profile: list[list[int]]) -> None:
    z = drawn_logits(profile)
    ballots_ = Ballots.of(z)
    ranked = [row[0].argsort().tolist() for row in ballots_.ranks]
    place = ballots_.places[0].tolist()
    for name, won in elect(z).items():
        assert int(won) == elections.RULES[name](ranked, place), name


@settings(max_examples=50, deadline=None)
@given(profiles, st.data())
def test_what_all_rules_promise(profile: list[list[int]], data: st.DataObject) -> None:
    z = drawn_logits(profile)
    won = {name: int(winner) for name, winner in elect(z).items()}
    members = data.draw(st.permutations(range(len(profile))))
    assert {name: int(winner) for name, winner in elect(z[members]).items()} == won, "members are not anonymous"
    classes = data.draw(st.permutations(range(len(profile[0]))))
    renamed = {name: classes[int(winner)] for name, winner in elect(z[..., classes]).items()}
    assert renamed == won, "classes are not neutral"
    z[..., won["borda"]] = z.amax() + 1
    assert {int(winner) for winner in elect(z).values()} == {won["borda"]}, "all members agree"


@settings(max_examples=80, deadline=None)
@given(profiles)
def test_a_condorcet_winner_is_elected(profile: list[list[int]]) -> None:
    z = drawn_logits(profile)
    beats_all = (Ballots.of(z).margins[0] > 0).sum(-1) == z.shape[-1] - 1
    for name, winner in elect(z, CONDORCET).items():
        assert not beats_all.any() or int(winner) == int(beats_all.int().argmax()), name


def test_the_smith_set() -> None:
    draws = torch.randn(4, 300, 5, generator=torch.Generator().manual_seed(0))
    ballots_ = Ballots.of(draws)
    sizes = pairwise.smith_size(pairwise.copeland(ballots_))
    for margins, size in zip(ballots_.margins, sizes, strict=True):
        dominating = [
            inside
            for count in range(1, 6)
            for inside in itertools.combinations(range(5), count)
            if all(margins[i, j] > 0 for i in inside for j in range(5) if j not in inside)
        ]
        assert int(size) == min(map(len, dominating))
    assert len(set(sizes.tolist())) > 2


def test_outside_the_smith_set_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schulze and Kemeny among the Smith set, and among all classes."""
    z = torch.randn(5, 400, 6, generator=torch.Generator().manual_seed(1))
    among_some = elect(z, ["schulze", "kemeny"])
    monkeypatch.setattr(pairwise, "smith_size", lambda scores: torch.full((len(scores),), 6))
    among_all = elect(z, ["schulze", "kemeny"])
    assert all(torch.equal(among_some[name], among_all[name]) for name in among_all)


def test_the_batch_may_be_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(3, 50, 7, generator=torch.Generator().manual_seed(2))
    whole = elect(z)
    for module in (ballots, pairwise):
        monkeypatch.setattr(module, "AT_ONCE", 130)
    monkeypatch.setattr("kdscale.ensemble.voting.AT_ONCE", 130)
    monkeypatch.setattr(pairwise, "IN_CACHE", 10)
    assert all(torch.equal(won, whole[name]) for name, won in elect(z).items())


def test_a_thousand_classes_in_bounded_memory() -> None:
    common = 4 * torch.randn(1, 3, 1000, generator=torch.Generator().manual_seed(3))
    z = common + torch.randn(10, 3, 1000, generator=torch.Generator().manual_seed(4))
    won = elect(z)
    assert {tuple(winner.shape) for winner in won.values()} == {(3,)}
    certain = z.clone()
    certain[:, :, 7] = 100
    assert {int(winner) for winners_ in elect(certain).values() for winner in winners_} == {7}


def test_too_many_classes_for_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ballots, "MOST_CLASSES", 5)
    z = torch.randn(2, 3, 6)
    for name in ("copeland", "simpson", "condorcet", "schulze", "kemeny"):
        with pytest.raises(UserError, match="at most 5 classes, and there are 6; take plurality"):
            elect(z, [name])
    elect(z, ["plurality", "borda", "dowdall", "bucklin", "stv", "baldwin", "nanson"])


def test_several_ballots_of_a_member_are_as_many_members() -> None:
    z = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(3))
    several, many = elect(z, ballots=[3, 1, 2]), elect(z[[0, 0, 0, 1, 2, 2]])
    assert all(torch.equal(several[rule], many[rule]) for rule in RULES)


def test_weights_become_the_fewest_whole_ballots_in_their_proportion() -> None:
    assert whole_ballots([1.0, 1.0]) == [1, 1]
    assert whole_ballots([0.7, 1.3]) == [7, 13]
    assert whole_ballots([2.0, 1.0, 1.0]) == [2, 1, 1]
    assert whole_ballots([1000.0, 1.0]) == [20, 1]
