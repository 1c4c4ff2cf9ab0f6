"""A sweep on Kubernetes: the manifest of a RayJob (KubeRay) whose cluster, at its largest, holds a plan.

The sizes of pods and their numbers follow from the plan. The experiment travels in a ConfigMap, and beside it what the
cluster may become, since Ray does not say that on Kubernetes. MLflow has a deployment of its own with a volume, so that
its records outlive the job. No secret is in the manifest: credentials come from a service account, and from Secrets
that are named.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dmsae_ray.config import Experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.capacity import DRIVER_BYTES, Cluster, NodeKind
from dmsae_ray.plan.plan import READER, Plan

RAY_VERSION = "2.60.0"
EXPERIMENT, CLUSTER = "experiment.yaml", "cluster.yaml"
_MOUNT, _RECORDS = "/etc/dmsae", "/var/lib/mlflow"
_HEAD, _WORKER, _TOKENISING = "head", "worker", "cpu"
_TOKENISING_CPUS, _TOKENISING_PODS = 16, 8
_GIB = 2**30
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
"""KubeRay adds up to some twenty characters to a job's name, and Kubernetes allows 63."""


@dataclass(frozen=True)
class Pods:
    """What a plan does not say about the pods.

    Attributes:
        name: Name of the job, and the beginning of the names of what belongs to it.
        image: Image of all pods, with Ray and this package.
        worker_memory: Memory of a worker pod, as Kubernetes writes it.
        service_account: Service account of the pods, which may read and write the bucket; None for the default one.
        hub_secret: Secret whose key `token` is a login of the Hugging Face Hub; None for none.
    """

    name: str
    image: str
    worker_memory: str = "64Gi"
    service_account: str | None = None
    hub_secret: str | None = None


def kuberay_manifest(experiment: Experiment, plan: Plan, pods: Pods) -> str:
    """Return the manifest as YAML of several documents, for `kubectl apply -f -`.

    Raises:
        ConfigError: Pods cannot see what the experiment names, or the job's name is none of Kubernetes.
    """
    _check(experiment, pods)
    cluster = pod_cluster(plan)
    documents = [
        _config_map(experiment, cluster, pods),
        *_mlflow(pods),
        _ray_job(cluster, pods),
    ]
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=10**6))


class _Dumper(yaml.SafeDumper):
    """Writes files within the manifest as lines, and no references from one place to another."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def pod_cluster(plan: Plan) -> Cluster:
    """Return the cluster of pods that holds the harvest and all trials at once, from no worker pod on.

    A worker pod has one GPU, or as many as one process asks for, and CPUs for all processes that share them. The head
    holds no work of Ray's, only what must not be lost.
    """
    bundles = [b for b in (*plan.beside_harvest(plan.at_once), *plan.harvest_needs) if b is not READER]
    gpus = math.ceil(max(b.gpus for b in bundles))
    cpus = math.ceil(max(b.cpus * (gpus // b.gpus if b.gpus else 1) for b in bundles))
    kinds = [NodeKind(_HEAD, 0, 0, 1, 1)]
    if gpus:
        kinds.append(NodeKind(_TOKENISING, _TOKENISING_CPUS, 0, 0, _TOKENISING_PODS))
    unbounded = NodeKind(_WORKER, cpus, gpus, 0, 10**6)
    most = Cluster("", (unbounded,)).started(plan.beside_harvest(plan.at_once))[_WORKER]
    kinds.append(NodeKind(_WORKER, max(cpus, 1), gpus, 0, max(most, 1)))
    head = (4 + math.ceil(plan.at_once * DRIVER_BYTES / _GIB)) * _GIB
    return Cluster("the pods", tuple(kinds), head_bytes=head)


def _check(experiment: Experiment, pods: Pods) -> None:
    if not _NAME.fullmatch(pods.name):
        raise ConfigError(
            f"--name is '{pods.name}'; it must begin with a letter and have at most 40 characters: a to z, 0 to 9, -"
        )
    if "://" not in experiment.output or experiment.output.startswith("file://"):
        raise ConfigError(
            f"output is '{experiment.output}'; pods share no disk, give a bucket: --set output=s3://BUCKET/dmsae"
        )
    transfer = experiment.transfer
    files = {
        "model.name": experiment.model.name,
        "corpus.path": experiment.corpus.path,
        **experiment.distill.initial_places,
        "transfer.core": None if transfer is None else transfer.core,
    }
    for field, place in files.items():
        if place and "://" not in place and Path(place).expanduser().exists():
            raise ConfigError(
                f"{field} is '{place}', on this machine; pods do not see it: put it into the image or a bucket"
            )


def _config_map(experiment: Experiment, cluster: Cluster, pods: Pods) -> dict[str, Any]:
    types = {
        kind.name: {
            "resources": {
                "CPU": kind.cpus,
                **({"GPU": kind.gpus} if kind.gpus else {}),
                **({"memory": int(cluster.head_bytes)} if kind.name == _HEAD else {}),
            },
            "max_workers": kind.most - kind.running,
        }
        for kind in cluster.kinds
    }
    largest = {
        "max_workers": sum(kind.most - kind.running for kind in cluster.kinds),
        "head_node_type": _HEAD,
        "available_node_types": types,
    }
    data = {EXPERIMENT: experiment.to_yaml(), CLUSTER: yaml.safe_dump(largest, sort_keys=False)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named(pods, ""), "data": data}


def _mlflow(pods: Pods) -> list[dict[str, Any]]:
    """Return MLflow's volume, deployment and service: for pods of the namespace, and for `kubectl port-forward`."""
    name, labels = f"{pods.name}-mlflow", {"app": f"{pods.name}-mlflow"}
    # MLflow answers under these names only: a page in a browser cannot make it answer under another one.
    hosts = ",".join(f"{host}:5000" for host in (name, "localhost", "127.0.0.1"))
    server = (
        f"mlflow server --host 0.0.0.0 --port 5000 --workers 1 --allowed-hosts {hosts} "
        f"--backend-store-uri sqlite:///{_RECORDS}/mlflow.db --artifacts-destination {_RECORDS}/artifacts"
    )
    container = {
        "name": "mlflow",
        "image": pods.image,
        "command": ["bash", "-lc", server],
        "ports": [{"containerPort": 5000, "name": "http"}],
        "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
        "volumeMounts": [{"name": "records", "mountPath": _RECORDS}],
    }
    # The volume must be writable for the image's user, whose group in Ray's images is 100.
    pod = {
        "securityContext": {"fsGroup": 100},
        "containers": [container],
        "volumes": [{"name": "records", "persistentVolumeClaim": {"claimName": name}}],
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _named(pods, "-mlflow"),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "20Gi"}}},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _named(pods, "-mlflow"),
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # two servers must not write to one file
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _named(pods, "-mlflow"),
        "spec": {"selector": labels, "ports": [{"port": 5000, "targetPort": "http"}]},
    }
    return [volume, deployment, service]


def _ray_job(cluster: Cluster, pods: Pods) -> dict[str, Any]:
    head, *workers = cluster.kinds
    groups = [
        {
            "groupName": kind.name,
            "replicas": 0,
            "minReplicas": 0,
            "maxReplicas": kind.most,
            "rayStartParams": {},
            "template": _pod(pods, f"ray-{kind.name}", kind.cpus, kind.gpus, _memory(kind, pods)),
        }
        for kind in workers
    ]
    spec = {
        # The cluster ends with the job; a job whose head was lost begins again and finds what is in the bucket.
        "entrypoint": f"dmsae sweep {_MOUNT}/{EXPERIMENT} --address auto --cluster {_MOUNT}/{CLUSTER}",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 60,
        "backoffLimit": 3,
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "authOptions": {"mode": "token"},
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 300},
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": f"{head.cpus:g}"},
                "template": _pod(pods, "ray-head", 4, 0, f"{int(cluster.head_bytes) // _GIB}Gi", records=True),
            },
            "workerGroupSpecs": groups,
        },
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": _named(pods, ""), "spec": spec}


def _pod(pods: Pods, container: str, cpus: float, gpus: float, memory: str, *, records: bool = False) -> dict[str, Any]:
    sizes = {"cpu": f"{cpus:g}", "memory": memory, **({"nvidia.com/gpu": f"{gpus:g}"} if gpus else {})}
    env: list[dict[str, Any]] = [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]
    if pods.hub_secret:
        secret = {"secretKeyRef": {"name": pods.hub_secret, "key": "token"}}
        env.append({"name": "HF_TOKEN", "valueFrom": secret})
    if records:
        env.append({"name": "MLFLOW_TRACKING_URI", "value": f"http://{pods.name}-mlflow:5000"})
    inside = {
        "name": container,
        "image": pods.image,
        "env": env,
        "resources": {"requests": dict(sizes), "limits": dict(sizes)},
        "volumeMounts": [{"name": "experiment", "mountPath": _MOUNT}],
    }
    spec: dict[str, Any] = {"serviceAccountName": pods.service_account} if pods.service_account else {}
    volumes = [{"name": "experiment", "configMap": {"name": pods.name}}]
    return {"spec": {**spec, "containers": [inside], "volumes": volumes}}


def _memory(kind: NodeKind, pods: Pods) -> str:
    return pods.worker_memory if kind.name == _WORKER else f"{2 * int(kind.cpus)}Gi"


def _named(pods: Pods, suffix: str) -> dict[str, Any]:
    return {"name": f"{pods.name}{suffix}", "labels": {"app.kubernetes.io/part-of": pods.name}}
