"""A harvest whose node goes, with all that runs on it, and for which another one comes."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.harvest.progress import HarvestProgress
from dmsae_ray.store.reader import Store
from tests.small_store import contents, prepare, unfinished

Make = Callable[..., Experiment]


def _harvest(tree: dict[str, Any], root: str, lost_after: int, said: Any) -> None:
    """A driver on a head without CPUs: all that is computed runs on the one node beside it."""
    import ray
    from ray.cluster_utils import Cluster

    # A node that does not answer at all is given up after 1.5 s; one that is slow, as late as ever.
    checks = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    small = {"include_dashboard": False, "object_store_memory": 100_000_000, "_system_config": checks}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=100_000_000)]
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)

    def lose(state: HarvestProgress) -> None:
        if state.stage == "activations" and state.done >= lost_after and len(nodes) == 1:
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=2, object_store_memory=100_000_000))

    prepare(parse_experiment(tree), root, progress=lose)
    said.put(len(nodes))
    ray.shutdown()
    cluster.shutdown()


def test_a_lost_node_changes_nothing(store: Store, stores: Path, tmp_path: Path, make_experiment: Make) -> None:
    unfinished(store, tmp_path)
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    tree = make_experiment().model_dump(mode="json")
    driver = context.Process(target=_harvest, args=(tree, str(tmp_path), 8_000, said))
    driver.start()
    driver.join(240)
    driver.kill()
    assert driver.exitcode == 0
    assert said.get(timeout=10) == 2  # the first node was lost, and another came
    assert contents(tmp_path / store.key) == contents(stores / store.key)
