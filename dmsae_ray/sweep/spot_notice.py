"""Tells Ray that this machine will be taken away: run it on each spot node, beside the raylet.

    python -m dmsae_ray.sweep.spot_notice --address HEAD:6379

AWS announces the end of a spot machine two minutes before, in the machine's own metadata. This program asks there every
few seconds. After an announcement it drains the node in Ray: nothing new is placed on it, and the trials that run on it
write a last checkpoint (`worker.MachineEnds`). Then it ends; on a machine that is not a spot machine it runs on.
"""

import argparse
import json
import logging
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dmsae_ray.errors import ConfigError, one_line

log = logging.getLogger(__name__)

METADATA = "http://169.254.169.254"
"""Address of the metadata of an EC2 machine."""
POLL_SECONDS = 5.0
_TIMEOUT = 2.0
_TOKEN_SECONDS = 21600


def announced_end(metadata: str = METADATA) -> datetime | None:
    """Return when this machine will be taken away; None if that is not announced, or nobody answers.

    Args:
        metadata: Address of the metadata service (IMDSv2).
    """
    try:
        asking = urllib.request.Request(
            f"{metadata}/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
        )
        with urllib.request.urlopen(asking, timeout=_TIMEOUT) as answer:
            token = answer.read().decode()
        question = urllib.request.Request(
            f"{metadata}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token}
        )
        with urllib.request.urlopen(question, timeout=_TIMEOUT) as answer:
            action = json.loads(answer.read())
        return datetime.strptime(action["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except urllib.error.HTTPError as error:
        if error.code != 404:  # 404: nothing is announced
            log.warning("the machine's metadata cannot be read: %s", one_line(error))
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the machine's metadata cannot be read: %s", one_line(error))
    return None


def drain_node(address: str, node_id: str, end: datetime) -> None:
    """Tell Ray that a node ends at a time, because it is preempted.

    Args:
        address: Address of the cluster's head, host:port.
        node_id: Id of the node.
        end: When the node ends.

    Raises:
        ConfigError: The cluster does not accept it.
    """
    # Ray has no public call for it; its own command `ray drain-node` does this.
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    client: Any = GcsClient(address=address)
    reasons: Any = autoscaler_pb2
    reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    message = f"the cloud takes the machine away at {end:%H:%M:%S} UTC"
    accepted, why = client.drain_node(node_id, reason, message, int(end.timestamp() * 1000))
    if not accepted:
        raise ConfigError(f"--address is '{address}'; node {node_id} is not drained: {one_line(why)}")


def node_of_this_machine(address: str) -> str:
    """Return the id of the live node of this machine.

    Args:
        address: Address of the cluster's head, host:port.

    Raises:
        ConfigError: The cluster has no such node.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent: the route tells our address
        probe.connect((host, int(port)))
        here = probe.getsockname()[0]
    client: Any = GcsClient(address=address)
    for node in client.get_all_node_info().values():
        if node.node_manager_address == here and node.state == 0:  # alive
            return str(node.node_id.hex())
    raise ConfigError(f"--address is '{address}'; that cluster has no node at {here}")


def watch(drain: Callable[[datetime], None], metadata: str = METADATA, poll_seconds: float = POLL_SECONDS) -> None:
    """Wait for the announcement, then drain; what fails is tried again as long as the machine is there."""
    while True:
        end = announced_end(metadata)
        if end is not None:
            try:
                drain(end)
                log.warning("this machine will be taken away at %s; Ray knows it", end)
                return
            except Exception as error:
                log.warning("Ray cannot be told: %s", one_line(error))
        time.sleep(poll_seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dmsae_ray.sweep.spot_notice", description=__doc__.split("\n")[0])
    parser.add_argument("--address", required=True, help="the head of the cluster, host:port")
    parser.add_argument("--metadata", default=METADATA, help="address of the machine's metadata")
    parser.add_argument("--node", help="id of the node; default: the one of this machine")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    watch(
        lambda end: drain_node(options.address, options.node or node_of_this_machine(options.address), end),
        options.metadata,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
