"""Where work goes: the next node, how many places there are, and what happens where there is none."""

from kdscale.cluster import Needs, fullest
from kdscale.cluster.resources import room

ONE = Needs(1)


def fill(whole: dict[str, Needs], wanted: Needs, count: int) -> list[str | None]:
    sent: dict[str, Needs] = {}
    chosen = []
    for _ in range(count):
        node = fullest(whole, sent, wanted)
        chosen.append(node)
        if node is not None:
            sent[node] = sent.get(node, Needs(0)) + wanted
    return chosen


def test_a_node_is_filled_before_the_next_begins() -> None:
    assert fill({"a": Needs(2), "b": Needs(4), "c": Needs(4)}, ONE, 9) == [*"cccc", *"bbbb", "a"]


def test_a_started_node_with_the_least_room_comes_first() -> None:
    whole = {"a": Needs(4), "b": Needs(4)}
    assert fullest(whole, {"a": Needs(1), "b": Needs(3)}, ONE) == "b"
    assert fullest(whole, {"a": Needs(1), "b": Needs(3)}, Needs(2)) == "a"


def test_where_nothing_fits_ray_decides() -> None:
    assert fill({"a": Needs(1)}, ONE, 2) == ["a", None]
    assert fullest({"a": Needs(4)}, {}, Needs(1, 1.0)) is None


def test_room_is_counted_node_by_node() -> None:
    whole = {"a": Needs(3, 1.0), "b": Needs(3, 0.5)}
    assert room(whole, Needs(2)) == 2, "the two single cores that are left do not make a third place"
    assert room(whole, Needs(1, 0.5)) == 3
    assert room(whole, Needs(4)) == 0
