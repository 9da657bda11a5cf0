"""Ray on this machine: what is said where it does not come up."""

import socket

import pytest

from kdscale.errors import RunFailure, UserError
from kdscale.recipe import Cluster
from launcher import local

ray = pytest.importorskip("ray")


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because of many things.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(RunFailure) as caught, local.connection(Cluster()):
        pass
    assert "did not start on this machine (The current node timed out during startup); try again" in str(caught.value)


def test_an_address_where_nothing_listens_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.raises(UserError, match=f"no Ray answers at 127.0.0.1:{port} "),
        local.connection(Cluster(address=f"127.0.0.1:{port}")),
    ):
        pass
