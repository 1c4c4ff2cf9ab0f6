"""An experiment from Python: `dmsae_ray.run` does what `dmsae sweep` does, and returns what was found."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.cli.exit_codes import EXIT_INTERRUPTED
from dmsae_ray.config import Experiment, load_experiment, set_environment
from dmsae_ray.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher


def run(
    experiment: Experiment | str | Path,
    *,
    overrides: Sequence[str] = (),
    preset: str | None = None,
    address: str | None = None,
    verbose: bool = False,
    scheduler: "TrialScheduler | None" = None,
    searcher: "Searcher | None" = None,
    num_samples: int | None = None,
) -> "DataFrame":
    """Run an experiment, or go on with it, and return one row for each trained cycle (`results.frame`).

    It is the command `dmsae sweep`: what is finished is not run again, records go to MLflow, the report is written, and
    progress is printed. `attrs` of the frame has the 'folder' of the sweep, for `dmsae report`, `stability` or `score`.

    Args:
        experiment: the experiment, or its YAML file.
        overrides: of a file, texts `dotted.path=value`.
        preset: of a file, 'tiny' for the same question on the embedded model.
        address: a Ray cluster ('auto' on its head node); None: this machine, or the session that this process has.
        verbose: show Ray's and Tune's own messages.
        scheduler: of Ray Tune, one that stops trials, such as `ASHAScheduler(time_attr="tokens", metric="loss",
            mode="min", max_t=…, grace_period=…)`. Trials report 'tokens' and 'loss', and where a cycle ends 'cycle',
            'fvu', 'loss_recovered', 'l0', 'carryover', 'retest', 'core_share' and 'core_size'. A stopped trial has no
            row and is not run again, unless the experiment goes on without a scheduler. Of sweeps with several stores
            of activations each is given a copy.
        searcher: of Ray Tune, chooses trials of the grid by what earlier ones found, such as
            `OptunaSearch(metric="loss_recovered", mode="max")`. k, coverage and `sweep.axes` are its space; where it
            asks for a point again, the next seed is run.
        num_samples: how many trials it may have in all, those included that are there; None: the whole grid. Without a
            searcher, all trials are run.

    Raises:
        DmsaeError: the experiment cannot be run; one line.
        KeyboardInterrupt: it was interrupted; call it again to go on.
    """
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(experiment, list(overrides), preset)
    elif overrides or preset is not None:
        raise ConfigError("overrides and preset are of a file; change the experiment by its model_copy")
    set_environment(verbose=verbose)
    from dmsae_ray.cli.run import run_and_report
    from dmsae_ray.results import create_folders, frame, load_results
    from dmsae_ray.sweep import Steering

    experiment = experiment.located()
    steering = Steering(scheduler, searcher, num_samples)
    code = run_and_report(experiment, address=address, verbose=verbose, steering=steering)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    folder = create_folders(experiment).sweep
    found = frame(load_results(folder))
    found.attrs["folder"] = str(folder)
    return found
