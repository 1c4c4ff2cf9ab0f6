"""The manifest for Kubernetes: its fields against those of KubeRay and Kubernetes, its sizes against the plan."""

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import load_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.capacity import cluster_of_yaml
from dmsae_ray.plan.fit import check_fits, trials_at_once, trials_beside_harvest
from dmsae_ray.plan.kuberay import RAY_VERSION, Pods, kuberay_manifest
from dmsae_ray.plan.plan import plan_experiment

SWEEPS = Path(__file__).parents[2] / "sweeps"
Tree = dict[str, Any]

# What may stand where, and of which type: `*` is any name. RayJob: KubeRay's CRD ray.io/v1; the rest: Kubernetes 1.30.
POD = """
spec.serviceAccountName: str
spec.securityContext.fsGroup: int
spec.containers.name: str
spec.containers.image: str
spec.containers.command: str
spec.containers.ports.containerPort: int
spec.containers.ports.name: str
spec.containers.env.name: str
spec.containers.env.value: str
spec.containers.env.valueFrom.secretKeyRef.name: str
spec.containers.env.valueFrom.secretKeyRef.key: str
spec.containers.resources.requests.*: str
spec.containers.resources.limits.*: str
spec.containers.volumeMounts.name: str
spec.containers.volumeMounts.mountPath: str
spec.volumes.name: str
spec.volumes.configMap.name: str
spec.volumes.persistentVolumeClaim.claimName: str
metadata.labels.*: str
"""
COMMON = "apiVersion: str\nkind: str\nmetadata.name: str\nmetadata.labels.*: str\n"
FIELDS = {
    ("v1", "ConfigMap"): "data.*: str",
    ("v1", "PersistentVolumeClaim"): "spec.accessModes: str\nspec.resources.requests.storage: str",
    ("v1", "Service"): "spec.selector.*: str\nspec.ports.port: int\nspec.ports.targetPort: str",
    ("apps/v1", "Deployment"): """
spec.replicas: int
spec.strategy.type: str
spec.selector.matchLabels.*: str
spec.template: POD
""",
    ("ray.io/v1", "RayJob"): """
spec.entrypoint: str
spec.shutdownAfterJobFinishes: bool
spec.ttlSecondsAfterFinished: int
spec.backoffLimit: int
spec.rayClusterSpec.rayVersion: str
spec.rayClusterSpec.authOptions.mode: str
spec.rayClusterSpec.enableInTreeAutoscaling: bool
spec.rayClusterSpec.autoscalerOptions.version: str
spec.rayClusterSpec.autoscalerOptions.idleTimeoutSeconds: int
spec.rayClusterSpec.headGroupSpec.rayStartParams.*: str
spec.rayClusterSpec.headGroupSpec.template: POD
spec.rayClusterSpec.workerGroupSpecs.groupName: str
spec.rayClusterSpec.workerGroupSpecs.replicas: int
spec.rayClusterSpec.workerGroupSpecs.minReplicas: int
spec.rayClusterSpec.workerGroupSpecs.maxReplicas: int
spec.rayClusterSpec.workerGroupSpecs.rayStartParams.*: str
spec.rayClusterSpec.workerGroupSpecs.template: POD
""",
}


def fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.split("\n"):
        path, _, kind = line.partition(": ")
        if kind == "POD":
            found |= {f"{path}.{inner}": of for inner, of in fields(POD).items()}
        elif path:
            found[path] = kind
    return found


def leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Each value with its path; items of a list have the list's path."""
    if isinstance(tree, dict):
        return [leaf for name, value in tree.items() for leaf in leaves(value, (*path, name))]
    if isinstance(tree, list):
        return [leaf for value in tree for leaf in leaves(value, path)]
    return [(path, tree)]


def check(document: Tree) -> None:
    """Raise unless every field is known and of its type."""
    allowed = fields(COMMON + FIELDS[document["apiVersion"], document["kind"]])
    for path, value in leaves(document):
        names = (".".join(path), ".".join((*path[:-1], "*")))
        kind = next((allowed[name] for name in names if name in allowed), None)
        assert kind is not None, f"{names[0]} is not known"
        assert type(value).__name__ == kind, f"{names[0]} is {value!r}, not of type {kind}"


def manifest(sweep: str = "figure6_sparsity", pods: Pods | None = None, *overrides: str) -> list[Tree]:
    experiment = load_experiment(SWEEPS / f"{sweep}.yaml", ["output=s3://bucket/dmsae", *overrides])
    pods = pods or Pods("job", "registry/dmsae:1", service_account="bucket", hub_secret="hub")
    return list(yaml.safe_load_all(kuberay_manifest(experiment, plan_experiment(experiment), pods)))


def of_kind(documents: list[Tree], kind: str) -> Tree:
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


@pytest.mark.parametrize("sweep", ["figure6_sparsity", "figure5_coverage", "figure2_cycles", "demo"])
def test_every_field_is_one_of_kubernetes(sweep: str) -> None:
    documents = manifest(sweep)
    assert len(documents) == 5
    for document in documents:
        check(document)
    wrong = of_kind(documents, "RayJob")
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(AssertionError, match="maxReplica is not known"):
        check(wrong)


@pytest.mark.parametrize("sweep", ["figure6_sparsity", "figure5_coverage", "demo"])
def test_the_pods_hold_what_the_plan_needs(sweep: str, tmp_path: Path) -> None:
    documents = manifest(sweep)
    data = of_kind(documents, "ConfigMap")["data"]
    (tmp_path / "cluster.yaml").write_text(data["cluster.yaml"])
    (tmp_path / "experiment.yaml").write_text(data["experiment.yaml"])
    plan = plan_experiment(load_experiment(tmp_path / "experiment.yaml"))
    cluster = cluster_of_yaml(tmp_path / "cluster.yaml")
    check_fits(plan, cluster)
    assert trials_at_once(plan, cluster) == plan.at_once == trials_beside_harvest(plan, cluster)
    ray = of_kind(documents, "RayJob")["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in ray["workerGroupSpecs"]}
    kinds = {kind.name: kind for kind in cluster.kinds}
    assert set(kinds) == {"head", *groups}
    for name, group in groups.items():
        (container,) = group["template"]["spec"]["containers"]
        sizes = container["resources"]["limits"]
        assert container["resources"]["requests"] == sizes
        assert (float(sizes["cpu"]), float(sizes.get("nvidia.com/gpu", 0))) == (kinds[name].cpus, kinds[name].gpus)
        assert (group["minReplicas"], group["maxReplicas"]) == (0, kinds[name].most)
    assert ray["rayVersion"] == RAY_VERSION
    (head,) = ray["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["resources"]["limits"]["memory"] == f"{cluster.head_bytes / 2**30:g}Gi"


def test_the_version_is_the_one_that_is_installed() -> None:
    import ray

    assert ray.__version__ == RAY_VERSION


def test_the_parts_belong_together() -> None:
    documents = manifest()
    job = of_kind(documents, "RayJob")["spec"]
    files, server, claim = (of_kind(documents, kind) for kind in ("ConfigMap", "Deployment", "PersistentVolumeClaim"))
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert head["volumes"] == [{"name": "experiment", "configMap": {"name": files["metadata"]["name"]}}]
    (mount,) = head["containers"][0]["volumeMounts"]
    for name in files["data"]:
        assert f"{mount['mountPath']}/{name}" in job["entrypoint"].split()
    service = of_kind(documents, "Service")
    env = {item["name"]: item for item in head["containers"][0]["env"]}
    assert env["MLFLOW_TRACKING_URI"]["value"] == f"http://{service['metadata']['name']}:5000"
    assert server["spec"]["template"]["metadata"]["labels"].items() >= service["spec"]["selector"].items()
    assert server["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    pod = server["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    # Workers have no way to MLflow and no address of it.
    for group in job["rayClusterSpec"]["workerGroupSpecs"]:
        assert "MLFLOW" not in str(group) and group["template"]["spec"]["serviceAccountName"] == "bucket"


def test_no_secret_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-so-secret")
    text = yaml.safe_dump_all(manifest())
    assert "hf_abc" not in text and "not-so-secret" not in text
    assert "secretKeyRef" not in yaml.safe_dump_all(manifest("demo", Pods("job", "image")))


def test_what_pods_cannot_see_is_refused(tmp_path: Path) -> None:
    core = tmp_path / "core.safetensors"
    core.write_bytes(b"")
    for override, said in (
        ("output=runs", "pods share no disk, give a bucket"),
        (f"model.name={tmp_path}", "model.name is"),
        (f"distill.initial_sae={tmp_path}", "distill.initial_sae is"),
        (f"distill.initial_sae={{20: 's3://bucket/a', 40: {tmp_path}}}", r"distill\.initial_sae\.40 is"),
        (f"transfer.core={core}", "transfer.core is"),
    ):
        with pytest.raises(ConfigError, match=said):
            manifest("figure6_sparsity", None, override)
    for name in ("Job", "a" * 41, "-a", "a-", "", "a.b"):
        with pytest.raises(ConfigError, match="--name is"):
            manifest("demo", Pods(name, "image"))


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(SWEEPS / "figure6_sparsity.yaml")
    assert main(["cluster", "kuberay", file, "--image", "i", "--set", "output=s3://bucket/x"]) == 0
    text = capsys.readouterr().out
    documents = list(yaml.safe_load_all(io.StringIO(text)))
    assert of_kind(documents, "RayJob")["metadata"]["name"] == "figure6-sparsity"
    assert "\n    model:\n      name: google/gemma-2-2b\n" in text and "&id" not in text
    assert main(["cluster", "kuberay", file, "--image", "i"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
