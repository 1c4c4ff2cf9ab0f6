"""The controller of a sweep: it makes the activations, and runs every trial of the grid that is not finished yet."""

import logging
from collections.abc import Callable, Sequence

import ray.tune

from dmsae_ray.files import PATIENCE_SECONDS, Folder, patience
from dmsae_ray.harvest import HarvestProgress, prepare
from dmsae_ray.plan import Cluster, check_fits, trials_at_once, trials_beside_harvest
from dmsae_ray.results import Steered
from dmsae_ray.store import UsageMark, open_store
from dmsae_ray.sweep.background_harvest import BackgroundHarvest
from dmsae_ray.sweep.callbacks import Stops
from dmsae_ray.sweep.lost_nodes import LostNodes
from dmsae_ray.sweep.orphaned_places import OrphanedPlaces
from dmsae_ray.sweep.prepared import PreparedSweep, SweepResult, sweep_state
from dmsae_ray.sweep.session import borrowed_cpus, cluster_of_ray
from dmsae_ray.sweep.shared_output import check_output_is_shared
from dmsae_ray.sweep.steering import NOBODY, Steering, steered_search
from dmsae_ray.sweep.tuning import run_trials
from dmsae_ray.sweep.waiting import Waiting

log = logging.getLogger(__name__)


def run_sweep(
    sweep: PreparedSweep,
    *,
    largest: Cluster | None = None,
    callbacks: Sequence[ray.tune.Callback] = (),
    progress: Callable[[HarvestProgress], None] | None = None,
    say: Callable[[str], None] = log.warning,
    waits: Callable[[str], None] | None = None,
    verbose: bool = False,
    steering: Steering = NOBODY,
) -> SweepResult:
    """Run every trial that has no summary yet; a Ray session must be active.

    Where the cluster can hold both, trials begin while the harvest goes on.

    After an interruption, the same call continues where it stopped. Finished shards and cycles are found by the hash
    of what determines them, finished trials by their summaries, and a cycle that was interrupted resumes from the last
    checkpoint of Ray Train.

    Args:
        sweep: The sweep, from `prepare_sweep`.
        largest: What the cluster may become, if Ray does not know it; see `session.cluster_of_ray`.
        callbacks: Callbacks of Ray Tune; they stay in this process.
        progress: Called with the progress of the harvest.
        say: Called with a line when a machine is lost, or something waits long for room on the cluster.
        waits: Called every few seconds with what waits for room on the cluster then; empty if nothing does.
        verbose: Show Tune's own messages.
        steering: Who chooses among the trials, and stops some. What was stopped is not run again.

    Raises:
        ConfigError: The cluster at its largest cannot hold the harvest or one trial, or a machine of it does not see
            the output.
        DmsaeError: The error that ended the harvest.
    """
    experiment, folders, plan, key = sweep.experiment, sweep.folders, sweep.plan, sweep.store_key
    cluster = cluster_of_ray(largest)
    check_fits(plan, cluster)
    check_output_is_shared(folders.output, folders.name)
    at_once, beside = trials_at_once(plan, cluster), trials_beside_harvest(plan, cluster, borrowed_cpus())
    steered = Steered.read(folders.shared)
    search = steered_search(sweep, steering, steered, at_once)

    def tune(overlap: bool = False) -> SweepResult:
        if not search.trials:
            return sweep_state(sweep)
        stops = None if steering.scheduler is None else Stops(steering.scheduler, folders, steered)
        try:
            head = cluster.head_bytes
            errors = run_trials(sweep, search, at_once, head, callbacks, waiting, verbose, stops, overlap)
        finally:
            search.end()
        return sweep_state(sweep, errors)

    mark = UsageMark(Folder(folders.stores) / key, folders.name)
    with patience(PATIENCE_SECONDS), mark, LostNodes(say), OrphanedPlaces(), Waiting(say, show=waits) as waiting:
        streams = experiment.activations.mode == "stream"
        if streams or not search.trials or open_store(folders.stores, experiment, key).complete:
            prepare(experiment, folders.stores, progress=progress)
            return tune()

        def harvest_done(failed: bool) -> None:
            if failed:
                search.close()
            else:
                search.widen(at_once)

        # Without room for both, drivers are started all the same, and wait: they cost no CPU, and seconds to start.
        search.widen(beside or at_once)
        with BackgroundHarvest(experiment, folders.stores, key, progress, harvest_done) as harvest:
            harvest.wait_for_first_shard()  # what cannot be harvested at all ends here, and no trial is told of it
            result = tune(overlap=beside > 0)
            if harvest.failed or not result.unfinished:  # otherwise the user interrupted both
                harvest.finish()
            return result
