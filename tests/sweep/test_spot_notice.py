"""The end of a spot machine, announced by its metadata, reaches Ray: against a metadata server and a real cluster."""

import multiprocessing
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from dmsae_ray.sweep.spot_notice import announced_end, watch
from tests.sweep.metadata_server import Metadata, metadata_server


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with metadata_server() as server:
        yield server


Found = TypeVar("Found")
END = datetime(2026, 9, 18, 8, 22, tzinfo=UTC)


def test_the_announcement_is_read(metadata: Metadata) -> None:
    assert announced_end(metadata.uri) is None
    metadata.announce(END)
    assert announced_end(metadata.uri) == END


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"action": "stop", "time": "soon"}', '{"time": 3}'])
def test_what_is_no_announcement_is_none(metadata: Metadata, text: str, caplog: Any) -> None:
    metadata.announcement = text
    assert announced_end(metadata.uri) is None
    assert "cannot be read" in caplog.text and "Traceback" not in caplog.text


def test_nobody_there_is_no_announcement() -> None:
    assert announced_end("http://127.0.0.1:1") is None


def test_what_ray_does_not_take_is_told_again(metadata: Metadata) -> None:
    metadata.announce(END)
    asked: list[datetime] = []

    def drain(end: datetime) -> None:
        asked.append(end)
        if len(asked) < 3:
            raise ConnectionError("the head does not answer")

    watch(drain, metadata.uri, poll_seconds=0.01)
    assert asked == [END] * 3


class Busy:
    """What runs on a node."""


def _drained(metadata: str, said: Any) -> None:
    """A driver on a head without CPUs; the one node beside it is told that it ends."""
    import ray
    from ray.cluster_utils import Cluster

    from dmsae_ray.sweep import spot_notice

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    busy: Any = ray.remote(Busy).options(num_cpus=1).remote()  # an idle node would end at once
    ray.get(busy.__ray_ready__.remote())
    here = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes()}
    said.put(spot_notice.node_of_this_machine(cluster.address) in here)
    before = ray._private.state.state.get_draining_nodes()
    code = spot_notice.main(["--address", cluster.address, "--metadata", metadata, "--node", node.node_id])
    deadline = time.monotonic() + 120
    while not (found := ray._private.state.state.get_draining_nodes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    said.put((before, code, found == {node.node_id: found.get(node.node_id)}, found.get(node.node_id)))
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.ray
def test_ray_knows_that_the_node_ends_and_when(metadata: Metadata) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=2)
    metadata.announce(end)
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    driver = context.Process(target=_drained, args=(metadata.uri, said))
    driver.start()
    try:
        assert said.get(timeout=120) is True
        before, code, only_this, deadline = said.get(timeout=120)
    finally:
        driver.join(60)
        driver.kill()
    assert before == {} and code == 0 and only_this
    assert deadline == end.timestamp() * 1000
