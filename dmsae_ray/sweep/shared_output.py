"""Do all machines of the cluster see the output? Asked before anything is computed there."""

import re
import uuid
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.files import Folder

_HERE = b"here"
_WAIT_SECONDS = 60.0


def check_output_is_shared(output: Folder, owner: str) -> None:
    """Write a file, and look for it from each running node; a Ray session must be active.

    A node that does not answer, or is lost meanwhile, is passed over: the sweep would find out by itself.

    Args:
        output: Where all workers write.
        owner: Name of what asks, of which there is one at a time: files that it left when it was killed are removed.

    Raises:
        ConfigError: A node cannot read the file; the message says which and why.
    """
    nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) < 2:
        return
    prefix = f".probe-{owner}-"
    for entry in output.entries():
        if re.fullmatch(f"{re.escape(prefix)}[0-9a-f]{{32}}", entry.base_name):
            output.delete(entry.base_name)
    name = f"{prefix}{uuid.uuid4().hex}"
    output.write(name, [_HERE])
    try:
        answers = [_ask(node["NodeID"], output, name) for node in nodes]
        ray.wait(answers, num_returns=len(answers), timeout=_WAIT_SECONDS)
        for node, answer in zip(nodes, answers, strict=True):
            try:
                problem = ray.get(answer, timeout=0)
            except (RayError, GetTimeoutError):
                continue
            if problem is not None:
                raise ConfigError(
                    f"output is '{output}'; machine {node['NodeManagerAddress']} {problem}; with several machines it "
                    "must be a folder that all share, or an object store such as s3://bucket/folder"
                )
    finally:
        output.delete(name)


def _ask(node: str, output: Folder, name: str) -> "ray.ObjectRef[str | None]":
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(_problem).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    answer: ray.ObjectRef[str | None] = task.remote(output, name)
    return answer


def _problem(output: Folder, name: str) -> str | None:
    """Return why this machine cannot read the file; None if it can."""
    try:
        return None if output.read(name) == _HERE else "has no such folder, or another one of this name"
    except DmsaeError as error:
        return f"cannot read there ({error})"
