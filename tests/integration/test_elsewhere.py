"""A run on a Ray that is already there."""

import pytest
from support.place import STUDENT, same_students

pytestmark = pytest.mark.slow


@pytest.mark.soak
def test_a_running_cluster_is_joined_and_outlives_the_command(finished, place, monkeypatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        here = place()
        here.kdscale(*STUDENT, f"cluster.address={cluster.address}")
        assert same_students(here, finished)
        ray.init(address=cluster.address, log_to_driver=False)
        assert ray.cluster_resources()["CPU"] == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
