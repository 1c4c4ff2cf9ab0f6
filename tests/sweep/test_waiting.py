"""What waits for room on a cluster is told, once; on a real Ray cluster."""

import time
from typing import Any

from ray.util import placement_group, remove_placement_group

from dmsae_ray.sweep.waiting import Waiting


def test_what_waits_for_room_is_told_once_and_what_has_room_is_not(ray_cluster: Any) -> None:
    class Service:
        def __init__(self, waits: bool) -> None:
            self._waits = waits

        def waits(self) -> bool:
            return self._waits

    told: list[str] = []
    fits = placement_group([{"CPU": 0.1}])
    ray_cluster.get(fits.ready())
    large = [placement_group([{"CPU": 6.0, "GPU": 1.0}, {"CPU": 2.0}]) for _ in range(2)]
    here, nowhere = (ray_cluster.remote(Service).options(num_cpus=0).remote(waits) for waits in (False, True))
    try:
        with Waiting(told.append, poll_seconds=0.1, patience_seconds=1.0) as waiting:
            waiting.ask("1 x small model", here)
            waiting.ask("1 x large model", nowhere)
            time.sleep(0.6)
            assert told == []
            until = time.monotonic() + 120
            while not told and time.monotonic() < until:
                time.sleep(0.1)
            time.sleep(1.0)
        told_together = ", ".join(told)
        assert told_together.count("2 x workers of a trial (8 CPU + 1 GPU)") == 1
        assert told_together.count("1 x large model") >= 1 and "small model" not in told_together
        assert len(told) <= 2  # the actor may be seen a moment after the groups
    finally:
        for group in (fits, *large):
            remove_placement_group(group)
        for actor in (here, nowhere):
            ray_cluster.kill(actor)
