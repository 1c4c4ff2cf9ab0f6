"""What a sweep leaves: its folders, and what each trial found."""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.results.folders import CORE_FILE as CORE_FILE
    from dmsae_ray.results.folders import SUMMARY_FILE as SUMMARY_FILE
    from dmsae_ray.results.folders import Folders as Folders
    from dmsae_ray.results.folders import create_folders as create_folders
    from dmsae_ray.results.folders import experiment_of as experiment_of
    from dmsae_ray.results.folders import folders_of as folders_of
    from dmsae_ray.results.trial import Setting as Setting
    from dmsae_ray.results.trial import TrialResult as TrialResult
    from dmsae_ray.results.trial import load_results as load_results
    from dmsae_ray.results.trial import parse_result as parse_result
    from dmsae_ray.results.trial import settings_of as settings_of

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "folders": (
            "CORE_FILE",
            "SUMMARY_FILE",
            "Folders",
            "create_folders",
            "experiment_of",
            "folders_of",
        ),
        "trial": (
            "Setting",
            "TrialResult",
            "load_results",
            "parse_result",
            "settings_of",
        ),
    },
)
