"""Frees places on the cluster that nobody will use again: Ray keeps them until its session ends."""

import logging
from contextlib import suppress
from typing import Any

import ray
from ray._private import state as ray_state  # placement_group_table() does not say who made a group, nor if it is dead
from ray.core.generated import gcs_pb2
from ray.exceptions import RayError
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from dmsae_ray.sweep.cluster_watch import ClusterWatch

log = logging.getLogger(__name__)

POLL_SECONDS = 3.0


class OrphanedPlaces(ClusterWatch):
    """Context in which a thread removes the placement groups of actors that are dead, the last time when it is left.

    When the controller of Ray Train is killed, the placement group of its workers stays: the trial, started again,
    would wait for the room that it holds itself. Ray Train has an actor that removes it, which asks Ray's dashboard:
    where there is none, or where there are two Ray sessions on the machine, it does nothing.

    Args:
        poll_seconds: Seconds between two looks.
    """

    def __init__(self, poll_seconds: float = POLL_SECONDS) -> None:
        super().__init__("dmsae-orphaned-places", poll_seconds)
        self._removed: set[bytes] = set()

    def _run(self) -> None:
        super()._run()
        self._look()  # the Ray session may outlive the context

    def look(self) -> None:
        """Remove the placement groups of this job whose maker is dead."""
        table: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]
        accessor: Any = ray_state.state._connect_and_get_accessor()
        job = ray.get_runtime_context().get_job_id()
        for group in map(table.FromString, accessor.get_placement_group_table()):
            made_by_actor = bool(group.creator_actor_id.strip(b"\xff"))
            if not (made_by_actor and group.creator_actor_dead) or group.is_detached or group.state == table.REMOVED:
                continue
            if group.creator_job_id.hex() == job and group.placement_group_id not in self._removed:
                # One that cannot be removed now must not hide the others; the next look tries it again.
                with suppress(RayError, ConnectionError, RuntimeError):
                    remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
                    self._removed.add(group.placement_group_id)
                    log.info("placement group %s was removed: its maker is dead", group.placement_group_id.hex())
