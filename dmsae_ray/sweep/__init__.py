"""The sweep: run every trial of an experiment on a Ray cluster, with Ray Tune over Ray Train.

In: an experiment, and the store of its activations (harvested here first, or while trials already run).
Out: a result folder per trial (`dmsae_ray.results`), shared trained cycles, and a `SweepResult` that says which trials
finished, failed or are unfinished.
`prepare_sweep` checks and plans without Ray; `ray_session` joins or starts a cluster; `run_sweep` is the controller.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.sweep.controller import run_sweep as run_sweep
    from dmsae_ray.sweep.evaluating import OWN as OWN
    from dmsae_ray.sweep.evaluating import EvaluationTask as EvaluationTask
    from dmsae_ray.sweep.evaluating import evaluate_sae as evaluate_sae
    from dmsae_ray.sweep.evaluating import failed as failed
    from dmsae_ray.sweep.evaluating import outcome_file as outcome_file
    from dmsae_ray.sweep.inputs import check_inputs as check_inputs
    from dmsae_ray.sweep.inputs import check_saes_and_core as check_saes_and_core
    from dmsae_ray.sweep.prepared import PreparedSweep as PreparedSweep
    from dmsae_ray.sweep.prepared import SweepResult as SweepResult
    from dmsae_ray.sweep.prepared import prepare_sweep as prepare_sweep
    from dmsae_ray.sweep.prepared import sweep_state as sweep_state
    from dmsae_ray.sweep.prepared import with_matched_baselines as with_matched_baselines
    from dmsae_ray.sweep.quality import QUALITY_VERSION as QUALITY_VERSION
    from dmsae_ray.sweep.quality import QualityTask as QualityTask
    from dmsae_ray.sweep.quality import measure_quality as measure_quality
    from dmsae_ray.sweep.scoring import INTEGRATED as INTEGRATED
    from dmsae_ray.sweep.scoring import TRIMMED as TRIMMED
    from dmsae_ray.sweep.scoring import ScoreTask as ScoreTask
    from dmsae_ray.sweep.scoring import score_cycle as score_cycle
    from dmsae_ray.sweep.scoring import score_name as score_name
    from dmsae_ray.sweep.session import cluster_of_ray as cluster_of_ray
    from dmsae_ray.sweep.session import ray_session as ray_session
    from dmsae_ray.sweep.shared_output import check_output_is_shared as check_output_is_shared
    from dmsae_ray.sweep.sole_controller import ControllerMark as ControllerMark
    from dmsae_ray.sweep.sole_controller import SoleController as SoleController
    from dmsae_ray.sweep.sole_controller import controller_of as controller_of
    from dmsae_ray.sweep.steering import NOBODY as NOBODY
    from dmsae_ray.sweep.steering import Steering as Steering
    from dmsae_ray.sweep.steering import check_steering as check_steering
    from dmsae_ray.sweep.tasks import run_tasks as run_tasks

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "controller": ("run_sweep",),
        "evaluating": (
            "OWN",
            "EvaluationTask",
            "evaluate_sae",
            "failed",
            "outcome_file",
        ),
        "inputs": (
            "check_inputs",
            "check_saes_and_core",
        ),
        "prepared": (
            "PreparedSweep",
            "SweepResult",
            "prepare_sweep",
            "sweep_state",
            "with_matched_baselines",
        ),
        "quality": (
            "QUALITY_VERSION",
            "QualityTask",
            "measure_quality",
        ),
        "scoring": (
            "INTEGRATED",
            "TRIMMED",
            "ScoreTask",
            "score_name",
            "score_cycle",
        ),
        "session": (
            "cluster_of_ray",
            "ray_session",
        ),
        "shared_output": ("check_output_is_shared",),
        "sole_controller": (
            "ControllerMark",
            "SoleController",
            "controller_of",
        ),
        "steering": (
            "NOBODY",
            "Steering",
            "check_steering",
        ),
        "tasks": ("run_tasks",),
    },
)
