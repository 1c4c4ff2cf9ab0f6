"""Run a sweep on several nodes, kill what it runs on by a seeded schedule, and compare it with an undisturbed one.

    python -m tests.sweep.disturbing FOLDER [--seed 0] [--kills 20] [--trials 8] [--kinds node worker driver ...]

The cluster is real (`ray.cluster_utils`): a head without CPUs and three nodes, all on this machine. Each kill is a
SIGKILL: of a node with all that runs on it (another node comes for it; its kind is 'spot' where the cloud announces it
some seconds before), of one of Ray's or our processes, or of the sweep's own process (the same command is then started
again). Afterwards every core and every trained weight must be
bit for bit what an undisturbed sweep has, MLflow must have each value once, and no half-written file and no process
may be left.
"""

import argparse
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from tests.small_sweep import SMALL, cores, environment, trained_cycles, write_config
from tests.sweep.metadata_server import metadata_server
from tests.sweep.tracked import check_tracking

TITLES = {
    "tokenise": "ray::MapBatches(tokenise",
    "harvest": "ray::MapWorker",
    "model": "ray::LanguageModel",  # and the service that starts it
    "worker": "ray::RayTrainWorker",
    "trial": "ray::ImplicitFunc",  # its driver, which is Ray Train's controller
}
"""Begin of the titles of the processes that may be killed, by kind."""
KINDS = ("node", "spot", *TITLES, "driver")
NOTICE_SECONDS = 12.0
"""How long before it happens the loss of a spot node is announced; AWS gives 120 s."""
TIMEOUT = 3000.0


class Nodes:
    """A cluster of a head and some nodes, each of which may be lost."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        # A node that does not answer at all is given up after 1.5 s; one that is slow, as late as ever.
        checks = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
        self._size: dict[str, Any] = {"num_cpus": 3, "object_store_memory": 100_000_000}
        head = {"num_cpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False, "_system_config": checks}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._cluster.add_node(**self._size) for _ in range(count)]
        self.address = str(self._cluster.address)
        self.seen: set[psutil.Process] = set()

    def lose_one(self, choose: random.Random, *, announced: bool = False) -> None:
        lost = choose.choice(self._nodes)
        if announced:
            end = datetime.now(UTC) + timedelta(seconds=NOTICE_SECONDS)
            with metadata_server() as metadata:
                metadata.announce(end)
                self.tell_ray(lost, metadata.uri)
                time.sleep(max(0.0, (end - datetime.now(UTC)).total_seconds()))
        self.lose(lost)

    def tell_ray(self, node: Any, metadata: str) -> None:
        """Run what runs beside each raylet of a spot machine, until it has told Ray."""
        program = [sys.executable, "-m", "dmsae_ray.sweep.spot_notice", "--address", self.address]
        subprocess.run([*program, "--metadata", metadata, "--node", node.node_id], check=True, timeout=60)

    def lose(self, lost: Any) -> None:
        """Kill a node with all that runs on it; another one comes for it."""
        self._cluster.remove_node(lost, allow_graceful=False)
        self._nodes[self._nodes.index(lost)] = self._cluster.add_node(**self._size)

    @property
    def nodes(self) -> list[Any]:
        """The nodes beside the head."""
        return list(self._nodes)

    def processes(self, title: str = "", node: Any = None) -> list[psutil.Process]:
        """The processes that the raylets (or that of one node) started and whose title begins so, as they started."""
        nodes = self._cluster.list_all_nodes() if node is None else [node]
        found = []
        for raylet in [info.process.pid for node in nodes for info in node.all_processes["raylet"]]:
            try:
                children = psutil.Process(raylet).children(recursive=True)
                found += [child for child in children if " ".join(child.cmdline()).startswith(title)]
            except psutil.Error:
                continue
        self.seen.update(found)
        return sorted(found, key=lambda process: process.pid)

    def shutdown(self) -> None:
        self._cluster.shutdown()


@contextmanager
def cluster(count: int) -> Iterator[Nodes]:
    nodes = Nodes(count)
    try:
        yield nodes
    finally:
        nodes.shutdown()


def kill_one(kind: str, nodes: Nodes, sweep: "subprocess.Popen[str]", choose: random.Random) -> bool:
    """Kill one thing of a kind; return whether there was one."""
    if kind in ("node", "spot"):
        nodes.lose_one(choose, announced=kind == "spot")
        return True
    if kind == "driver":
        sweep.kill()
        sweep.wait()
        return True
    victims = nodes.processes(TITLES[kind])
    if not victims:
        return False
    victims[choose.randrange(len(victims))].kill()
    return True


def disturb(folder: Path, config: Path, nodes: Nodes, options: argparse.Namespace) -> Counter[str]:
    """Run the sweep of `config` to its end, killing as asked; return what was killed, by kind."""
    choose, killed = random.Random(options.seed), Counter[str]()
    command = [sys.executable, "-m", "dmsae_ray.cli", "sweep", str(config), "--address", nodes.address]
    begun, next_kill = time.monotonic(), time.monotonic() + choose.uniform(*options.pause)
    with open(folder / "output.txt", "a") as output:

        def start() -> "subprocess.Popen[str]":
            return subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=config.parent
            )

        sweep = start()
        try:
            while sweep.poll() is None:
                time.sleep(0.5)
                nodes.processes()
                assert time.monotonic() - begun < TIMEOUT, f"the sweep does not end; killed: {dict(killed)}"
                if killed.total() >= options.kills or time.monotonic() < next_kill:
                    continue
                kind = choose.choice(options.kinds)
                if kill_one(kind, nodes, sweep, choose):
                    killed[kind] += 1
                    print(f"{time.monotonic() - begun:6.1f} s: killed a {kind}", flush=True)
                    if kind == "driver":
                        sweep = start()
                next_kill = time.monotonic() + choose.uniform(*options.pause)
            assert sweep.returncode == 0, f"exit code {sweep.returncode}; see {output.name}"
        finally:
            if sweep.poll() is None:
                sweep.kill()
    return killed


def check_results(disturbed: Path, undisturbed: Path, trials: list[str]) -> None:
    """Compare all results, bit for bit, and look for what should not be there."""
    assert cores(disturbed, trials) == cores(undisturbed, trials)
    found, expected = trained_cycles(disturbed), trained_cycles(undisturbed)
    assert found and found == {key: expected[key] for key in found}
    rubbish = [
        path
        for path in (disturbed / "runs").rglob("*")
        if path.is_file() and path.name.startswith(".") and path.name != ".validate_storage_marker"  # this is Ray's
    ]
    assert rubbish == [], rubbish
    check_tracking(disturbed / "runs" / "mlflow.db", disturbed, trials)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the sweeps are run; made if it is not there")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule: what is killed, and when")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=8, choices=(2, 4, 6, 8), help="two coverages, and seeds")
    parser.add_argument("--nodes", type=int, default=3, help="nodes beside the head")
    parser.add_argument(
        "--pause", type=float, nargs=2, default=(4.0, 16.0), help="seconds between two kills, at random"
    )
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--undisturbed", type=Path, help="a folder with the undisturbed sweep; by default it is run")
    options = parser.parse_args(arguments)

    seeds = list(range(options.trials // 2))
    sweep = {**SMALL["sweep"], "seeds": seeds}
    trials = [f"k8-tau{coverage}-seed{seed}" for coverage in SMALL["sweep"]["coverage"] for seed in seeds]
    folder: Path = options.folder.absolute()
    undisturbed: Path = options.undisturbed or folder / "undisturbed"
    disturbed = folder / "disturbed"
    disturbed.mkdir(parents=True)
    if options.undisturbed is None:
        undisturbed.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "dmsae_ray.cli", "sweep", str(write_config(undisturbed, sweep=sweep))],
            env=environment(),
            cwd=undisturbed,
            stdout=subprocess.DEVNULL,
        )
        assert done.returncode == 0
    since = time.time()
    config = write_config(disturbed, sweep=sweep, resources={"max_failures": 3})
    with cluster(options.nodes) as nodes:
        killed = disturb(folder, config, nodes, options)
    took = time.time() - since
    check_results(disturbed, undisturbed, trials)
    left = psutil.wait_procs(nodes.seen, timeout=30)[1]
    assert nodes.seen and left == [], left
    print(f"{len(trials)} trials, bit for bit the undisturbed ones, after {dict(killed)} in {took:.0f} s")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
