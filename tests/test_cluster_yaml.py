"""cluster.yaml: what Ray's own code makes of it, and that it is cheap when idle, closed, pinned and free of secrets."""

import copy
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
FILE = ROOT / "cluster.yaml"
CONFIG: dict[str, Any] = yaml.safe_load(FILE.read_text())

TOKEN_FILE = "~/.ray/auth_token"
SECRET_VALUE = re.compile(
    r"AKIA[0-9A-Z]{12}|hf_[A-Za-z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20}|glpat-|sk-[A-Za-z0-9]{16}|-----BEGIN|"
    r"eyJ[A-Za-z0-9_-]{16}|//[^/\s:@]+:[^/\s@]+@|\b[0-9a-f]{32}\b(?![0-9a-f])|\b[0-9a-f]{64}\b|[A-Za-z0-9+/]{40,}={0,2}"
)
SECRET_SETTING = re.compile(
    r"(?i)(password|passwd|secret|api_?key|access_?key|auth_?token|_token)\s*[=:]\s*['\"]?[^\s'\"$]{6}"
)
COMMANDS = [
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
]


def strings(node: Any) -> Iterator[str]:
    """Every text in a config, keys included."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from strings(key)
            yield from strings(value)
            if isinstance(value, str):
                yield f"{key}: {value}"
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node


def commands(config: dict[str, Any], *lists: str) -> list[str]:
    return [command for name in lists or COMMANDS for command in config.get(name) or []]


def dependencies() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {r.name: r for r in map(Requirement, project["dependencies"])}


def ingress(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Rules that would be added to those of the launcher, which opens SSH and the group to itself."""
    group = config["provider"].get("security_group") or {}
    own = [n for n, t in config["available_node_types"].items() if "SecurityGroupIds" in t["node_config"]]
    assert not own, f"{own} have security groups that nothing here can see"
    return list(group.get("IpPermissions") or [])


def problems(config: dict[str, Any]) -> list[str]:
    """All that is wrong with a cluster file by our own rules (Ray's are checked by Ray)."""
    found: list[str] = []

    def rule(holds: Any, text: str) -> None:
        if not holds:
            found.append(text)

    types, head = config["available_node_types"], config["head_node_type"]
    workers = {name: t for name, t in types.items() if name != head}
    gpu = {name: t for name, t in workers.items() if t["resources"].get("GPU")}
    spot = {name for name, t in workers.items() if _market(t) == "spot"}

    # Cheap when idle.
    rule(gpu, "no GPU workers")
    rule(all(t.get("min_workers", 0) == 0 for t in workers.values()), "workers that are there without work")
    rule(all(t.get("max_workers", 0) > 0 for t in workers.values()), "a node type that can never start")
    rule(0 < config.get("idle_timeout_minutes", 99) <= 15, "idle workers stay for long")
    rule(types[head].get("max_workers", 0) == 0, "workers of the head's kind")
    rule(not types[head]["resources"].get("GPU"), "a GPU on the head")
    rule(_market(types[head]) is None, "the head may be taken away")
    # Spot first, on-demand behind it, of the same shape.
    rule(spot & set(gpu), "no spot GPU workers")
    rule(set(gpu) - spot, "no on-demand GPU workers to fall back on")
    for name in set(gpu) - spot:
        rule(
            all(gpu[s].get("priority", 0) > gpu[name].get("priority", 0) for s in spot & set(gpu)),
            f"{name} does not come after spot",
        )
        rule(any(gpu[s]["resources"] == gpu[name]["resources"] for s in spot & set(gpu)), f"{name} has another shape")
    rule(any(not t["resources"].get("GPU") for t in workers.values()), "no CPU workers")
    # Closed.
    rule(all(_is_ssh(permission) for permission in ingress(config)), "a port other than SSH is open")
    rule(config["provider"].get("security_group", {}).get("GroupName"), "no security group of its own")
    rule(
        all(t["node_config"].get("MetadataOptions", {}).get("HttpTokens") == "required" for t in types.values()),
        "instance credentials can be read without a session",
    )
    for command in commands(config):
        for host in re.findall(r"--(?:dashboard-)?host[= ](\S+)", command):
            rule(host == "127.0.0.1", f"a server listens on {host}")
    rule(any("--dashboard-host=127.0.0.1" in c for c in config["head_start_ray_commands"]), "dashboard not on loopback")
    rule(
        any("mlflow server" in c and "--host 127.0.0.1" in c for c in commands(config)), "no MLflow server on loopback"
    )
    # Token authentication, everywhere, with a token that is made there.
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [c for c in config[name] if "ray start" in c]
        rule(starts, f"no `ray start` in {name}")
        rule(all(re.search(r"export RAY_AUTH_MODE=token;.*ray start", c, re.S) for c in starts), f"no token in {name}")
    rule(
        any("RAY_AUTH_MODE=token" in c and ".dmsae_env" in c for c in config["setup_commands"]), "drivers without token"
    )
    rule(any("get-auth-token --generate" in c for c in config["head_setup_commands"]), "no token is made")
    rule(
        all("> /dev/null" in c and "umask 077" in c for c in commands(config) if "get-auth-token" in c),
        "the token is printed, or readable by others",
    )
    rule(TOKEN_FILE in config.get("cluster_synced_files", []), "the token does not reach the workers")
    # No secret.
    for text in strings(config):
        rule(not SECRET_VALUE.search(text) and not SECRET_SETTING.search(text), f"looks like a secret: {text[:12]}...")
    rule("ssh_private_key" not in config.get("auth", {}), "a key of somebody's machine")
    # Pinned.
    pins = {r.name: r for r in map(_requirement, _quoted(config)) if r is not None}
    for name in ("ray", "torch"):
        ours, theirs = dependencies()[name], pins.get(name)
        rule(theirs is not None, f"{name} is not pinned")
        if theirs is not None:
            exact = re.fullmatch(r"==(\d+\.\d+\.\d+)", str(theirs.specifier))
            rule(exact, f"{name} {theirs.specifier} is not one version")
            rule(
                exact and ours.specifier.contains(exact[1]),
                f"{name} {theirs.specifier} is not pyproject's {ours.specifier}",
            )
            rule(ours.extras <= theirs.extras, f"{name} lacks extras of pyproject")
    project = config.get("metadata", {}).get("project", "")
    rule(re.search(r"dmsae-ray @ (git\+https://\S+@[\w.-]+|https://\S+\.whl)'", project), "the project is not pinned")
    rule(project in config["setup_commands"], "the project is not installed on all nodes")
    rule(len({t["node_config"].get("ImageId") for t in types.values()}) == 1, "nodes of different images")
    region = config["provider"]["region"]
    rule(
        all(z.startswith(region) for z in config["provider"]["availability_zone"].split(",")), "zones of another region"
    )
    rule(
        all(r == region for c in commands(config) for r in re.findall(r"AWS_DEFAULT_REGION=(\S+)", c)), "another region"
    )
    return found


def _market(node_type: dict[str, Any]) -> str | None:
    market = node_type["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
    return None if market is None else str(market)


def _is_ssh(permission: dict[str, Any]) -> bool:
    return (permission.get("IpProtocol"), permission.get("FromPort"), permission.get("ToPort")) == ("tcp", 22, 22)


def _quoted(config: dict[str, Any]) -> list[str]:
    return [text for c in commands(config) if "pip install" in c for text in re.findall(r"'([^']+)'", c)]


def _requirement(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except ValueError:
        return None


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """The config as `ray up` prepares and checks it, before it asks AWS anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


# --- the file as it is ---


def test_ray_prepares_and_validates_it() -> None:
    ready = prepared(CONFIG)
    assert ready["available_node_types"]["head"]["max_workers"] == 0
    assert ready["head_setup_commands"][: len(CONFIG["setup_commands"])] == CONFIG["setup_commands"]
    assert ready["docker"] == {}


def test_nothing_of_rays_defaults_is_left_to_chance() -> None:
    """Ray's defaults replace whole keys: a list that is missing here would be Ray's, with `latest` of everything."""
    ready = prepared(CONFIG)
    for name in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "provider", "auth"):
        assert ready[name] == CONFIG[name]
    assert not any("latest" in text for text in strings(ready))


def test_it_keeps_our_rules() -> None:
    assert problems(CONFIG) == []


def test_what_is_to_be_filled_in_says_so_and_stops_the_launch() -> None:
    places = [text for text in strings(CONFIG["metadata"]) if "FILL-IN" in text]
    assert places
    image = CONFIG["metadata"]["image"]
    assert not re.fullmatch(r"ami-[0-9a-f]{8,17}", image), "an AMI of one region, at one time"
    guard = next(c for c in CONFIG["setup_commands"] if "grep -q FILL-IN" in c)
    assert CONFIG["setup_commands"].index(guard) == CONFIG["setup_commands"].index(CONFIG["metadata"]["project"]) + 1


def test_file_mounts_are_there() -> None:
    for local in CONFIG["file_mounts"].values():
        assert (ROOT / local).is_dir()


@pytest.mark.parametrize("command", commands(CONFIG))
def test_every_command_is_a_command(command: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", as_sent(command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def as_sent(command: str) -> str:
    """The command line that Ray's launcher sends over SSH for a command."""
    from ray.autoscaler._private.command_runner import _with_interactive

    return " ".join(_with_interactive(command))


def run_on_a_node(home: Path, *wanted: str) -> subprocess.CompletedProcess[str]:
    """Run commands of the file as the launcher does, with `home` as the node's home; stops at the first that fails."""
    (home / ".bashrc").touch()
    script = "\n".join(f"{as_sent(command)} || exit 9" for command in wanted)
    return subprocess.run(
        ["bash", "-c", script],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        start_new_session=True,  # interactive shells would reach for the terminal
    )


def test_the_guard_refuses_an_unfilled_project_and_passes_a_filled_one(tmp_path: Path) -> None:
    project = CONFIG["metadata"]["project"]
    guard = next(c for c in CONFIG["setup_commands"] if "grep -q FILL-IN" in c)
    refused = run_on_a_node(tmp_path, project, guard)
    assert refused.returncode != 0 and "fill in metadata.project" in refused.stdout
    filled = run_on_a_node(tmp_path, project.replace("FILL-IN", "abc123"), guard)
    assert filled.returncode == 0
    assert Requirement((tmp_path / "project.txt").read_text().strip()).url


def test_the_environment_of_a_node_is_written_once_and_can_be_read(tmp_path: Path) -> None:
    wanted = [
        c for c in commands(CONFIG, "setup_commands", "head_setup_commands") if ".dmsae_env" in c or "dmsae_env" in c
    ]
    assert run_on_a_node(tmp_path, *wanted, *wanted).returncode == 0
    assert (tmp_path / ".bashrc").read_text().count("dmsae_env") == 1
    show = 'echo "$RAY_AUTH_MODE|$MLFLOW_TRACKING_URI|$AWS_DEFAULT_REGION|${PATH%%:*}"'
    shown = run_on_a_node(tmp_path, show).stdout.strip()
    assert shown == f"token|http://127.0.0.1:5000|us-west-2|{tmp_path}/venv/bin"


def test_the_head_makes_a_token_where_ray_and_the_sync_look_for_it(tmp_path: Path) -> None:
    make = next(c for c in CONFIG["head_setup_commands"] if "get-auth-token" in c)
    (tmp_path / "venv").symlink_to(Path(sys.executable).parent.parent)
    done = run_on_a_node(tmp_path, make)
    assert done.returncode == 0, done.stderr
    token = Path(TOKEN_FILE.replace("~", str(tmp_path)))
    first = token.read_text()
    assert len(first) >= 32 and first not in done.stdout + done.stderr
    assert token.stat().st_mode & 0o077 == 0
    run_on_a_node(tmp_path, make)
    assert token.read_text() == first


# --- what Ray's autoscaler does with it ---


def launches(demands: list[dict[str, float]], availability: dict[str, float] | None = None) -> dict[str, int]:
    """Nodes that Ray's own scheduler (autoscaler v2, the launcher's default) starts beside a full head."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import AutoscalerInstance, ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import NodeState, NodeStatus
    from ray.core.generated.instance_manager_pb2 import Instance, NodeKind

    config = AutoscalingConfig(copy.deepcopy(CONFIG), skip_content_hash=True)
    head = AutoscalerInstance(
        cloud_instance_id="i-head",
        im_instance=Instance(
            instance_id="head",
            instance_type="head",
            status=Instance.RAY_RUNNING,
            node_kind=NodeKind.HEAD,
            cloud_instance_id="i-head",
        ),
        ray_node=NodeState(
            node_id=b"head",
            ray_node_type_name="head",
            available_resources={"CPU": 0},
            total_resources={"CPU": 8},
            status=NodeStatus.RUNNING,
        ),
    )
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(d) for d in demands]),
        current_instances=[head],
        recoverable_resource_availabilities=availability or {},
    )
    reply = ResourceDemandScheduler().schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


TRAIN_WORKER = {"CPU": 6.0, "GPU": 1.0}


def test_without_work_nothing_starts() -> None:
    assert launches([]) == {}


def test_gpu_work_starts_spot_nodes() -> None:
    assert launches([TRAIN_WORKER] * 3) == {"gpu-spot": 3}


def test_on_demand_takes_over_where_spot_did_not_come_up_or_is_used_up() -> None:
    assert launches([TRAIN_WORKER] * 3, {"gpu-spot": 0.0}) == {"gpu-on-demand": 3}
    many = launches([TRAIN_WORKER] * 15)
    assert many == {"gpu-spot": 12, "gpu-on-demand": 3}


def test_cpu_work_starts_no_gpu_node() -> None:
    assert set(launches([{"CPU": 1.0}] * 40)) == {"cpu-spot"}


def test_the_cluster_has_a_largest_size() -> None:
    assert sum(launches([TRAIN_WORKER] * 99).values()) == CONFIG["max_workers"]


# --- the rules see what is wrong ---


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(config: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        node: Any = config
        for key in parents:
            node = node.setdefault(key, {}) if isinstance(node, dict) else node[int(key)]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return apply


def replace(name: str, old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def apply(config: dict[str, Any]) -> None:
        assert any(old in command for command in config[name])
        config[name] = [command.replace(old, new) for command in config[name]]

    return apply


def opened(low: int, high: int) -> list[dict[str, Any]]:
    return [{"IpProtocol": "tcp", "FromPort": low, "ToPort": high, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]


WRONG = {
    "a GPU node always on": (change("available_node_types/gpu-spot/min_workers", 1), "without work"),
    "no spot": (change("available_node_types/gpu-spot/node_config/InstanceMarketOptions", None), "no spot GPU"),
    "no fallback": (change("available_node_types/gpu-on-demand", None), "no on-demand GPU"),
    "on-demand first": (change("available_node_types/gpu-on-demand/priority", 20), "does not come after spot"),
    "another shape": (change("available_node_types/gpu-on-demand/resources", {"CPU": 1, "GPU": 1}), "another shape"),
    "no CPU workers": (change("available_node_types/cpu-spot", None), "no CPU workers"),
    "idle for hours": (change("idle_timeout_minutes", 600), "stay for long"),
    "no idle timeout": (change("idle_timeout_minutes", None), "stay for long"),
    "spot head": (
        change("available_node_types/head/node_config/InstanceMarketOptions", {"MarketType": "spot"}),
        "the head may be taken away",
    ),
    "dashboard port": (change("provider/security_group/IpPermissions", opened(8265, 8265)), "port other than SSH"),
    "all ports": (change("provider/security_group/IpPermissions", opened(0, 65535)), "port other than SSH"),
    "public dashboard": (
        replace("head_start_ray_commands", "dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0"),
        "0.0.0.0",
    ),
    "public MLflow": (replace("head_start_ray_commands", "--host 127.0.0.1", "--host 0.0.0.0"), "listens on 0.0.0.0"),
    "head without token": (replace("head_start_ray_commands", "RAY_AUTH_MODE=token", "A=1"), "no token in head"),
    "workers without token": (replace("worker_start_ray_commands", "RAY_AUTH_MODE=token", "A=1"), "no token in worker"),
    "drivers without token": (replace("setup_commands", "RAY_AUTH_MODE=token", "A=1"), "drivers without token"),
    "token not made": (replace("head_setup_commands", "get-auth-token --generate", "version"), "no token is made"),
    "token printed": (replace("head_setup_commands", "> /dev/null", ""), "the token is printed"),
    "token not copied": (change("cluster_synced_files", []), "does not reach the workers"),
    "token in the file": (replace("setup_commands", "AWS_DEFAULT_REGION", f"RAY_AUTH_TOKEN={'0a' * 32} X"), "secret"),
    "AWS key": (change("metadata/note", "AKIAABCDEFGHIJKLMNOP"), "secret"),
    "Hub token": (replace("setup_commands", "AWS_DEFAULT_REGION", f"HF_TOKEN=hf_{'aB3' * 10} X"), "secret"),
    "password": (change("metadata/db_password", "hunter22"), "secret"),
    "password in a URL": (replace("head_setup_commands", "127.0.0.1:5000", "me:hunter22@host"), "secret"),
    "private key": (change("auth/ssh_private_key", "~/me.pem"), "somebody's machine"),
    "other Ray": (replace("setup_commands", "==2.60.0", "==2.59.0"), "is not pyproject's"),
    "any Ray": (replace("setup_commands", "==2.60.0", ">=2.60"), "is not one version"),
    "any patch of Ray": (replace("setup_commands", "==2.60.0", "==2.60.*"), "is not one version"),
    "no Ray": (replace("setup_commands", "'ray[default,data,train,tune]==2.60.0'", ""), "ray is not pinned"),
    "other torch": (replace("setup_commands", "torch==2.13.0", "torch==2.12.0"), "is not pyproject's"),
    "project unpinned": (change("metadata/project", "echo 'dmsae-ray' > ~/project.txt"), "the project is not pinned"),
    "other zone": (change("provider/availability_zone", "eu-west-1a"), "zones of another region"),
    "old metadata service": (
        change("available_node_types/gpu-spot/node_config/MetadataOptions", None),
        "without a session",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_rules_see_what_is_wrong(name: str) -> None:
    spoil, said = WRONG[name]
    config = copy.deepcopy(CONFIG)
    spoil(config)
    assert any(said in problem for problem in problems(config)), problems(config)


@pytest.mark.parametrize(
    "spoil",
    [change("max_worker", 3), change("available_node_types/gpu-spot/min_worker", 1), change("head_node_type", "hed")],
)
def test_ray_sees_what_is_misspelt(spoil: Callable[[dict[str, Any]], None]) -> None:
    from jsonschema import ValidationError

    config = copy.deepcopy(CONFIG)
    spoil(config)
    with pytest.raises((ValidationError, ValueError)):
        prepared(config)
