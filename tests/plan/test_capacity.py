"""What fits on a cluster: against hand sums, exhaustive search, cluster.yaml and a running Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.config.experiment import Experiment, load_experiment, parse_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.capacity import Bundle, Cluster, NodeKind, cluster_of_nodes, cluster_of_yaml, one_node
from dmsae_ray.plan.fit import check_fits, trials_at_once
from dmsae_ray.plan.plan import plan_experiment
from dmsae_ray.sweep.session import cluster_of_ray

ROOT = Path(__file__).parents[2]


def experiment(resources: dict[str, Any], seeds: int = 1) -> Experiment:
    return parse_experiment(
        {
            "name": "test",
            "model": {"name": "tiny", "layer": 1},
            "resources": resources,
            "sweep": {"seeds": list(range(seeds))},
        }
    )


def refusal(resources: dict[str, Any], cluster: Cluster) -> str:
    with pytest.raises(ConfigError) as error:
        check_fits(plan_experiment(experiment(resources)), cluster)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- bundles on nodes ---


def possible(bundles: Sequence[Bundle], nodes: Sequence[tuple[float, float]]) -> bool:
    """Whether some placement holds, by trying them all."""
    if not bundles:
        return True
    first, *rest = bundles
    for i, (cpus, gpus) in enumerate(nodes):
        if first.cpus <= cpus and first.gpus <= gpus:
            left = [*nodes[:i], (cpus - first.cpus, gpus - first.gpus), *nodes[i + 1 :]]
            if possible(rest, left):
                return True
    return False


small = st.integers(0, 4)
shapes = st.lists(st.tuples(small, st.integers(0, 2)), min_size=1, max_size=3)


@given(shapes, st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), max_size=4))
def test_what_is_said_to_fit_fits(nodes: list[tuple[int, int]], wanted: list[tuple[int, int]]) -> None:
    cluster = cluster_of_nodes([{"CPU": c, "GPU": g} for c, g in nodes])
    bundles = [Bundle(f"b{i}", c, g) for i, (c, g) in enumerate(wanted)]
    if cluster.unplaced(bundles) is None:
        assert possible(bundles, nodes)


@given(shapes, st.integers(1, 3), st.integers(0, 2), st.integers(0, 5))
def test_bundles_of_one_size_are_placed_whenever_they_can_be(
    nodes: list[tuple[int, int]], cpus: int, gpus: int, count: int
) -> None:
    cluster = cluster_of_nodes([{"CPU": c, "GPU": g} for c, g in nodes])
    fits = cluster.unplaced([Bundle("b", cpus, gpus, count)]) is None
    assert fits == possible([Bundle("b", cpus, gpus)] * count, nodes)


def test_many_small_shares_fill_a_node_to_the_brim() -> None:
    assert one_node(1.0).unplaced([Bundle("driver", 0.05, count=20)]) is None
    assert one_node(1.0).unplaced([Bundle("driver", 0.05, count=21)]) is not None
    assert one_node(0.1, 1).unplaced([Bundle("actor", 0.01, 0.1, count=10)]) is None


def test_cpu_work_does_not_take_the_gpu_nodes_from_gpu_work() -> None:
    kinds = (NodeKind("gpu", 8, 1, running=1, most=1), NodeKind("cpu", 8, 0, running=1, most=1))
    assert Cluster("c", kinds).unplaced([Bundle("cpu", 8), Bundle("gpu", 8, 1)]) is None
    assert Cluster("c", kinds).unplaced([Bundle("cpu", 8), Bundle("gpu", 1, 1), Bundle("cpu", 8)]) is not None


def test_nodes_start_up_to_each_kinds_and_the_clusters_limit() -> None:
    kinds = (NodeKind("head", 8, 0, 1, 1), NodeKind("spot", 4, 1, 0, 2), NodeKind("other", 4, 1, 0, 2))
    assert Cluster("c", kinds, most_nodes=5).unplaced([Bundle("w", 4, 1, 4)]) is None
    assert Cluster("c", kinds, most_nodes=5).unplaced([Bundle("w", 4, 1, 5)]) is not None
    assert Cluster("c", kinds, most_nodes=4).unplaced([Bundle("w", 4, 1, 4)]) is not None
    assert Cluster("c", kinds, most_nodes=4).totals() == (8 + 3 * 4, 3)
    assert Cluster("c", kinds, most_nodes=5).totals() == (8 + 4 * 4, 4)


# --- a plan on a cluster ---

TWO_WORKERS = {"workers_per_trial": 2, "cpus_per_worker": 2, "gpus_per_worker": 1, "gpus_per_model_actor": 1}


def test_a_trial_that_fits_exactly_fits() -> None:
    # Workers 2 x 2, language model 1: 5 CPU; 3 GPU. Drivers are on the head, and reserve its memory only.
    plan = plan_experiment(experiment(TWO_WORKERS))
    check_fits(plan, one_node(5, 3))
    with pytest.raises(ConfigError):
        check_fits(plan, one_node(4.95, 3))
    with pytest.raises(ConfigError):
        check_fits(plan, one_node(5, 2))


def test_the_refusal_has_the_sum_what_there_is_and_what_to_change() -> None:
    message = refusal(TWO_WORKERS, one_node(8, 2))
    assert message.startswith("a trial needs 5 CPU + 3 GPU = ")
    assert "2 x Train worker (2 CPU + 1 GPU)" in message and "1 x language model (1 CPU + 1 GPU)" in message
    assert "this machine: 1 x node (8 CPU + 2 GPU), together at most 8 CPU and 2 GPU" in message
    assert "resources.workers_per_trial" in message


def test_a_sum_that_is_there_but_scattered_is_said_so() -> None:
    nodes = cluster_of_nodes([{"CPU": 2.0}] * 4)
    message = refusal({"cpus_per_worker": 4}, nodes)
    assert "in sum that is there, but no node has room left for Train worker" in message
    check_fits(plan_experiment(experiment({"cpus_per_worker": 2})), nodes)


def test_the_harvest_is_checked_before_the_trials() -> None:
    message = refusal({"model_actors_min": 3, "model_actors_max": 3, "cpus_per_model_actor": 2}, one_node(6.5))
    assert message.startswith("harvesting needs 7 CPU + 0 GPU = 3 x language-model actor (2 CPU)")
    assert "resources.model_actors_min" in message


def test_as_many_trials_run_at_once_as_fit_and_may() -> None:
    plan = plan_experiment(experiment({}, seeds=5))  # a trial: 1 CPU; the language model: 1 CPU
    assert [trials_at_once(plan, one_node(cpus)) for cpus in (1.95, 2, 2.95, 3, 4, 100)] == [0, 1, 1, 2, 3, 5]
    capped = plan_experiment(experiment({"max_concurrent_trials": 2}, seeds=5))
    assert [trials_at_once(capped, one_node(cpus)) for cpus in (2, 100)] == [1, 2]


def test_the_heads_memory_bounds_the_trials() -> None:
    """Each running trial has its driver and Train's controller there, 0.8 GB together."""
    plan = plan_experiment(experiment({}, seeds=5))
    head = {"CPU": 0.0, "memory": 2.5e9, "node:__internal_head__": 1.0}
    cluster = cluster_of_nodes([head, {"CPU": 100.0, "memory": 1e12}])
    assert cluster.head_bytes == 2.5e9 and trials_at_once(plan, cluster) == 3
    small = cluster_of_nodes([{**head, "memory": 1e8}, {"CPU": 100.0}])
    assert trials_at_once(plan, small) == 1  # one is always tried


def test_the_demo_fits_one_core_and_uses_two() -> None:
    demo = plan_experiment(load_experiment(ROOT / "sweeps" / "demo.yaml"))
    for cores, trials in ((1, 1), (2, 2)):
        machine = one_node(cores + 1)  # the embedded cluster has one logical core more than there are
        check_fits(demo, machine)
        assert trials_at_once(demo, machine) == trials


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("figure*.yaml")), ids=lambda path: path.stem)
def test_cluster_yaml_holds_every_sweep_with_all_the_trials_it_asks_for(path: Path) -> None:
    plan = plan_experiment(load_experiment(path))
    cluster = cluster_of_yaml(ROOT / "cluster.yaml")
    check_fits(plan, cluster)
    assert trials_at_once(plan, cluster) == plan.at_once
    harvest = load_experiment(path).resources
    many = Bundle("actor", harvest.cpus_per_model_actor, harvest.gpus_per_model_actor, harvest.model_actors_max)
    assert cluster.unplaced([many]) is None


def test_cluster_yaml_does_not_hold_everything() -> None:
    with pytest.raises(ConfigError, match=r"a trial needs .*cluster.yaml: 1 x head .*12 x gpu-spot"):
        check_fits(
            plan_experiment(experiment({"gpus_per_worker": 2, "cpus_per_worker": 1})),
            cluster_of_yaml(ROOT / "cluster.yaml"),
        )


# --- where clusters come from ---


def test_a_launcher_file_is_read_at_its_largest(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "max_workers: 3\nhead_node_type: h\navailable_node_types:\n"
        "  h: {resources: {CPU: 2}}\n  a: {resources: {CPU: 4, GPU: 1}, max_workers: 2}\n  b: {resources: {CPU: 8}}\n"
    )
    cluster = cluster_of_yaml(file)
    assert [(k.name, k.running, k.most) for k in cluster.kinds] == [("h", 1, 1), ("a", 0, 2), ("b", 0, 3)]
    assert cluster.most_nodes == 4
    assert cluster.totals() == (2 + 3 * 8, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is no file of Ray's cluster launcher"),
        ("a: 1", "is no file of Ray's cluster launcher"),
        ("- a", "is no file of Ray's cluster launcher"),
        ("", "is no file of Ray's cluster launcher"),
        ("head_node_type: h\navailable_node_types: {h: {}}", "node type 'h' has no resources.CPU"),
    ],
)
def test_a_bad_launcher_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        cluster_of_yaml(file)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        cluster_of_yaml(tmp_path / "none.yaml")


def test_the_cluster_of_a_running_ray_is_what_ray_says(ray_cluster: Any) -> None:
    total = ray_cluster.cluster_resources()
    assert cluster_of_ray().totals() == (total["CPU"], total.get("GPU", 0.0))


def test_what_an_autoscaler_reports_to_ray_counts_before_the_nodes_that_run(ray_cluster: Any) -> None:
    from ray._private.state import state
    from ray._private.worker import global_worker
    from ray.core.generated import autoscaler_pb2

    config = autoscaler_pb2.ClusterConfig()
    for name, resources, least, most in (("head", {"CPU": 4}, 1, 1), ("gpu", {"CPU": 8, "GPU": 2}, 0, 3)):
        group = config.node_group_configs.add(name=name, min_count=least, max_count=most)
        for resource, count in resources.items():
            group.resources[resource] = count
    config.node_group_configs.add(name="endless", max_count=-1).resources["CPU"] = 1
    kinds = (NodeKind("head", 4, 0, 1, 1), NodeKind("gpu", 8, 2, 0, 3), NodeKind("endless", 1, 0, 0, 10**6))
    global_worker.gcs_client.report_cluster_config(config.SerializeToString())
    try:
        assert state.get_cluster_config() is not None
        found = cluster_of_ray()
        assert found.kinds == kinds and found.head_bytes < float("inf")
        given = one_node(1)
        assert cluster_of_ray(given).kinds == given.kinds
    finally:
        global_worker.gcs_client.report_cluster_config(b"")
    assert cluster_of_ray().totals() == (ray_cluster.cluster_resources()["CPU"], 0.0)
