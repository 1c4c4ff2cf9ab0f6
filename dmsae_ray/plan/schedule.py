"""How long a sweep takes, by arithmetic: its trials in their places, and the harvest before or beside them.

Not counted: the start of machines and processes, lost machines, and what an earlier run has left.
"""

import heapq
from dataclasses import dataclass

from dmsae_ray.plan.capacity import Cluster
from dmsae_ray.plan.fit import trials_at_once, trials_beside_harvest
from dmsae_ray.plan.plan import Plan
from dmsae_ray.plan.queue import TrialQueue
from dmsae_ray.plan.trials import Trial


@dataclass(frozen=True)
class Schedule:
    """The hours of a sweep.

    Attributes:
        harvest: Hours from the first token to the last stored activation.
        total: Hours from the start to the end of the last trial.
        held: Hours that trials hold their workers, all trials together.
        service: Hours from the start of the first trial to the end of the last.
        at_once: The most trials that run together.
    """

    harvest: float
    total: float
    held: float
    service: float
    at_once: int


def schedule_on(plan: Plan, cluster: Cluster | None) -> Schedule:
    """Return the schedule of a plan on a cluster; without one, of as many trials at once as the experiment allows."""
    if cluster is None:
        return schedule(plan, plan.at_once)
    return schedule(plan, trials_at_once(plan, cluster), trials_beside_harvest(plan, cluster))


def schedule(plan: Plan, at_once: int, beside: int = 0) -> Schedule:
    """Begin and end trials as the sweep does, see `queue.TrialQueue`.

    Args:
        plan: The plan.
        at_once: Places for trials, once the harvest is done.
        beside: Places from the start on, while the harvest goes on. A training cannot end before the harvest does,
            since it reads every shard.
    """
    harvest = plan.harvest_hours
    queue = TrialQueue(plan.trials, plan.shares_cycle_0)
    starts: list[float] = []
    ends: list[float] = []
    # At the same time trials end first, then a cycle 0 is there; the number keeps equal ones in their order.
    events: list[tuple[float, int, int, Trial | None]] = [(0.0, 2, -2, None), (harvest, 2, -1, None)]
    while events:
        now, kind, _, trial = heapq.heappop(events)
        if trial is not None:
            (queue.cycle_0_done if kind else queue.trial_ended)(trial)
        if events and events[0][0] <= now:
            continue
        while queue.running < (at_once if now >= harvest else min(beside, at_once)):
            begun = queue.next()
            if begun is None:
                break
            number, end, hours = len(starts), now, plan.training.of(begun.budget)
            found = queue.is_trained(begun)
            for index in range(plan.trainings_of_trial - found):
                end = max(end + hours, harvest)
                if index == 0 and not found:
                    heapq.heappush(events, (end, 1, number, begun))
            heapq.heappush(events, (end, 0, number, begun))
            starts.append(now)
            ends.append(end)
    return Schedule(
        harvest, max(ends), sum(ends) - sum(starts), max(ends) - min(starts), min(at_once, len(plan.trials))
    )
