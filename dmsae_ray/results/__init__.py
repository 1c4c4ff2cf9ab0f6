"""The results of a sweep: its folders, and what each trial found.

In: what the workers of a trial measured (`dmsae_ray.distill`), and the files of a sweep folder.
Out: `Folders`, which says where each file is; `TrialReport`, what a trial reports while it runs; and `TrialResult`,
what a finished trial found. The rooms sweep, tracking, report and cli read them.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.results.data_frame import frame as frame
    from dmsae_ray.results.folders import COMMIT as COMMIT
    from dmsae_ray.results.folders import CORE_FILE as CORE_FILE
    from dmsae_ray.results.folders import INPUTS_FILE as INPUTS_FILE
    from dmsae_ray.results.folders import SUMMARY_FILE as SUMMARY_FILE
    from dmsae_ray.results.folders import Folders as Folders
    from dmsae_ray.results.folders import begun_inputs as begun_inputs
    from dmsae_ray.results.folders import create_folders as create_folders
    from dmsae_ray.results.folders import experiment_of as experiment_of
    from dmsae_ray.results.folders import folders_of as folders_of
    from dmsae_ray.results.folders import keep_config as keep_config
    from dmsae_ray.results.folders import recorded_stores as recorded_stores
    from dmsae_ray.results.folders import store_input as store_input
    from dmsae_ray.results.matched import matched_baselines as matched_baselines
    from dmsae_ray.results.matched import matched_before as matched_before
    from dmsae_ray.results.reports import CYCLE_NUMBERS as CYCLE_NUMBERS
    from dmsae_ray.results.reports import NUMBERS as NUMBERS
    from dmsae_ray.results.reports import TrialReport as TrialReport
    from dmsae_ray.results.reports import cycle_name as cycle_name
    from dmsae_ray.results.reports import failure_in as failure_in
    from dmsae_ray.results.reports import failure_metrics as failure_metrics
    from dmsae_ray.results.reports import known_after as known_after
    from dmsae_ray.results.reports import known_in as known_in
    from dmsae_ray.results.reports import numbers_of as numbers_of
    from dmsae_ray.results.steered import Steered as Steered
    from dmsae_ray.results.steered import StoppedTrial as StoppedTrial
    from dmsae_ray.results.steered import grouped as grouped
    from dmsae_ray.results.trial import TrialResult as TrialResult
    from dmsae_ray.results.trial import by_setting as by_setting
    from dmsae_ray.results.trial import load_result as load_result
    from dmsae_ray.results.trial import load_results as load_results
    from dmsae_ray.results.trial import parse_result as parse_result

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "data_frame": ("frame",),
        "folders": (
            "COMMIT",
            "CORE_FILE",
            "INPUTS_FILE",
            "SUMMARY_FILE",
            "Folders",
            "begun_inputs",
            "create_folders",
            "experiment_of",
            "folders_of",
            "keep_config",
            "recorded_stores",
            "store_input",
        ),
        "matched": (
            "matched_baselines",
            "matched_before",
        ),
        "reports": (
            "CYCLE_NUMBERS",
            "NUMBERS",
            "TrialReport",
            "cycle_name",
            "failure_in",
            "failure_metrics",
            "known_after",
            "known_in",
            "numbers_of",
        ),
        "steered": (
            "Steered",
            "StoppedTrial",
            "grouped",
        ),
        "trial": (
            "TrialResult",
            "by_setting",
            "load_result",
            "load_results",
            "parse_result",
        ),
    },
)
