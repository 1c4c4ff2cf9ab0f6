"""A sweep on a cluster that starts without a worker node, as a picture: nodes by kind and trials, against time.

    python tests/benchmarks/record_autoscaling.py            # results/autoscaling.json, results/autoscaling.png

The cluster is Ray's own: a head without CPUs, and its autoscaler, which starts and ends nodes of Ray's fake provider as
processes of this machine. The sweep is the command line's, in a process of its own. Afterwards all worker nodes must be
gone: an idle actor that kept one up would be seen here.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from machine import RESULTS, machine, save

sys.path.insert(0, str(Path(__file__).parents[2]))
from dmsae_ray.report.plots import colour, panels
from dmsae_ray.report.plots import save as save_figure
from tests.small_sweep import environment, sweep_folder, write_config

PERIOD = 0.5
HEAD, TOKENS, TRIALS = "ray.head.default", "cpu", "worker"
PORT = 6379
"""Ray's fake provider knows the head by this name and this port."""
SIZES = {TOKENS: {"CPU": 1}, TRIALS: {"CPU": 2}}


def cluster_file(folder: Path, idle_minutes: float) -> Path:
    """What the autoscaler is told: from no worker node to one for tokenising and three for all else."""
    memory = {"object_store_memory": 100_000_000}
    kinds: dict[str, Any] = {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        TOKENS: {"resources": {**SIZES[TOKENS], **memory}, "node_config": {}, "min_workers": 0, "max_workers": 1},
        TRIALS: {"resources": {**SIZES[TRIALS], **memory}, "node_config": {}, "min_workers": 0, "max_workers": 3},
    }
    tree = {
        "cluster_name": "fake",
        "max_workers": 4,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,  # all nodes have the address of this machine
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": kinds,
        "head_node_type": HEAD,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_minutes,
        **{name: {} for name in ("auth", "docker", "file_mounts", "head_node", "worker_nodes")},
        **{name: [] for name in ("cluster_synced_files", "initialization_commands", "rsync_exclude", "rsync_filter")},
        **{f"{name}setup_commands": [] for name in ("", "head_", "worker_")},
        **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
        "file_mounts_sync_continuously": False,
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@contextmanager
def ray_head(folder: Path, cluster: Path) -> Iterator[str]:
    """A head with the autoscaler; its address. All its processes, those of the nodes too, end with the context."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            raise SystemExit(f"port {PORT} is taken; end the Ray cluster that runs on this machine")
    own = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_TMPDIR": str(folder / "ray")}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={PORT}", "--block"]
    command += ["--num-cpus=0", "--include-dashboard=false", f"--autoscaling-config={cluster}"]
    command += ["--object-store-memory=100000000"]
    with open(folder / "head.txt", "w") as log:
        head = subprocess.Popen(command, env=environment(**own), stdout=log, stderr=subprocess.STDOUT)
        try:
            _await_head(head, folder / "head.txt")
            yield f"127.0.0.1:{PORT}"
        finally:
            family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
            for process in family:
                with suppress(psutil.Error):
                    process.kill()
            head.kill()
            head.wait()


def _await_head(head: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and head.poll() is None:
        if "Ray runtime started" in log.read_text():
            return
        time.sleep(0.2)
    raise RuntimeError(f"no head: {log.read_text()[-2000:]}")


class Recorder:
    """Looks at the cluster and at the sweep's folder."""

    def __init__(self, address: str, run: Path, trials: int) -> None:
        import ray

        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        self._ray, self._run, self._trials = ray, run, trials
        self.samples: list[dict[str, float]] = []
        self._began = time.monotonic()

    def look(self) -> dict[str, float]:
        """Take a sample: nodes by kind, trials that train, trials that wait or have not begun, trials that are done."""
        from ray._private.state import actors

        nodes = Counter(self._kind(node["Resources"]) for node in self._ray.nodes() if node["Alive"])
        alive = [a for a in actors().values() if a["State"] == "ALIVE"]
        running = sum(actor["ActorClassName"] == "RayTrainWorker" for actor in alive)
        harvesting = sum("MapWorker" in actor["ActorClassName"] for actor in alive)
        done = len(list(self._run.glob("runs/sweeps/*/trials/*/summary.json")))
        running = min(running, self._trials - done)
        sample = {
            "seconds": round(time.monotonic() - self._began, 1),
            **{f"nodes_{kind}": nodes[kind] for kind in SIZES},
            "harvesting": float(harvesting > 0),
            "running": running,
            "waiting": self._trials - done - running,
            "done": done,
        }
        self.samples.append(sample)
        return sample

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()

    @staticmethod
    def _kind(resources: dict[str, float]) -> str:
        cpus = resources.get("CPU", 0)
        return next((kind for kind, size in SIZES.items() if size["CPU"] == cpus), HEAD)


def draw(samples: list[dict[str, float]], path: Path) -> None:
    """Draw nodes above, trials below."""
    figure, (nodes, trials) = panels(2, width=4.2, height=2.4, columns=2)
    seconds = [sample["seconds"] for sample in samples]
    for i, (kind, size) in enumerate(SIZES.items()):
        label = f"of {size['CPU']} CPU"
        nodes.step(seconds, [s[f"nodes_{kind}"] for s in samples], where="post", color=colour(i), label=label)
    for i, name in enumerate(("waiting", "running", "done")):
        trials.step(seconds, [s[name] for s in samples], where="post", color=colour(i), label=name)
    harvest = [s["seconds"] for s in samples if s["harvesting"]]
    for axis, title in ((nodes, "worker nodes"), (trials, "trials")):
        if harvest:
            axis.axvspan(harvest[0], harvest[-1], color="#EEEEEE", label="harvest")
        axis.set(xlabel="seconds from the command", title=title, ylim=(0, 1.3 * axis.get_ylim()[1]))
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=7, ncols=4, loc="upper center")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trials: two coverages for each seed")
    parser.add_argument("--idle-minutes", type=float, default=0.25, help="a node that is idle for so long ends")
    options = parser.parse_args()
    about, trials = machine(), 2 * options.seeds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cluster = cluster_file(folder, options.idle_minutes)
        config = write_config(
            folder,
            name="autoscaling",
            sweep={"seeds": list(range(options.seeds))},
            resources={"checkpoint_every_tokens": 50_000},
        )
        with ray_head(folder, cluster) as address, open(folder / "sweep.txt", "w") as output:
            recorder = Recorder(address, folder, trials)
            assert sum(recorder.look()[f"nodes_{kind}"] for kind in SIZES) == 0
            command = [sys.executable, "-m", "dmsae_ray.cli", "sweep", str(config)]
            command += ["--address", address, "--cluster", str(cluster)]
            sweep = subprocess.Popen(command, cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT)
            while sweep.poll() is None:
                time.sleep(PERIOD)
                recorder.look()
            ended, until = recorder.samples[-1]["seconds"], time.monotonic() + 60 * options.idle_minutes + 60
            if sweep.returncode != 0:
                raise SystemExit((folder / "sweep.txt").read_text())
            while any(recorder.look()[f"nodes_{kind}"] for kind in SIZES) and time.monotonic() < until:
                time.sleep(PERIOD)
            print((folder / "sweep.txt").read_text())
            recorder.close()
            folder_of_sweep = sweep_folder(folder, "autoscaling")
            assert len(list(folder_of_sweep.glob("trials/*/summary.json"))) == trials
        last = recorder.samples[-1]
        most = {kind: max(sample[f"nodes_{kind}"] for sample in recorder.samples) for kind in SIZES}
        result = {
            "machine": about,
            "trials": trials,
            "idle_minutes": options.idle_minutes,
            "seconds_of_the_sweep": ended,
            "seconds_until_no_node_is_left": last["seconds"],
            "most_nodes": most,
            "nodes_left": sum(last[f"nodes_{kind}"] for kind in SIZES),
            "samples": recorder.samples,
        }
        if result["nodes_left"]:
            raise SystemExit(f"{result['nodes_left']:g} nodes are still up: {json.dumps(last)}")
    place = save("autoscaling", result)
    draw(recorder.samples, RESULTS / "autoscaling.png")
    print({name: value for name, value in result.items() if name != "samples"}, place, sep="\n")


if __name__ == "__main__":
    # `ray start` asks every client for a token, which it would leave in this user's home.
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_TRAIN_V2_ENABLED="1")
    main()
