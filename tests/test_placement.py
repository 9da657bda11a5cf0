"""Onto as few nodes as hold them: which node is next."""

from kdscale.cluster import Needs, fullest

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
