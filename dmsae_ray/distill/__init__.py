"""The paper's algorithms: attribution, selection, lineage, control cores, and the loop of cycles.

Input: a `CycleRunner` (settings, a `DataSource` of activations, optionally a `CycleStore`) and, for `transfer`, a core.
Output: the reports of each cycle (`WindowReport`, `CycleReport`), the cores with their lineage, and the distilled core
(`DistillationResult`, `TransferResult`). The room needs torch, numpy and scipy only, and knows nothing of Ray or of
language models. METHOD.md has the formulas and settles what the paper leaves open.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.distill.attribution import SCORES as SCORES
    from dmsae_ray.distill.attribution import attribution_scores as attribution_scores
    from dmsae_ray.distill.attribution import firing_frequency as firing_frequency
    from dmsae_ray.distill.attribution import pool_scores as pool_scores
    from dmsae_ray.distill.attribution_set import AttributionSet as AttributionSet
    from dmsae_ray.distill.attribution_set import TensorPairs as TensorPairs
    from dmsae_ray.distill.attribution_set import cut as cut
    from dmsae_ray.distill.attribution_set import halves as halves
    from dmsae_ray.distill.controls import gaussian_core as gaussian_core
    from dmsae_ray.distill.controls import nearest_frequencies as nearest_frequencies
    from dmsae_ray.distill.controls import random_core as random_core
    from dmsae_ray.distill.core import Core as Core
    from dmsae_ray.distill.core import distilled_core as distilled_core
    from dmsae_ray.distill.core import empty_core as empty_core
    from dmsae_ray.distill.core import load_core as load_core
    from dmsae_ray.distill.core import save_core as save_core
    from dmsae_ray.distill.core_place import CORE_FILE as CORE_FILE
    from dmsae_ray.distill.core_place import core_file as core_file
    from dmsae_ray.distill.core_place import core_on_hub as core_on_hub
    from dmsae_ray.distill.core_place import fetch_core as fetch_core
    from dmsae_ray.distill.core_transfer import TransferResult as TransferResult
    from dmsae_ray.distill.core_transfer import transfer as transfer
    from dmsae_ray.distill.correlation import rank_correlation as rank_correlation
    from dmsae_ray.distill.cost import scoring_flops as scoring_flops
    from dmsae_ray.distill.cost import training_flops as training_flops
    from dmsae_ray.distill.cycle_runner import CycleCheckpoint as CycleCheckpoint
    from dmsae_ray.distill.cycle_runner import CycleRunner as CycleRunner
    from dmsae_ray.distill.cycle_settings import OPTIONAL_SCORING as OPTIONAL_SCORING
    from dmsae_ray.distill.cycle_settings import CycleSettings as CycleSettings
    from dmsae_ray.distill.cycle_settings import DataSource as DataSource
    from dmsae_ray.distill.cycle_settings import cycle_key as cycle_key
    from dmsae_ray.distill.cycle_store import CycleStore as CycleStore
    from dmsae_ray.distill.cycle_store import DirectoryCycleStore as DirectoryCycleStore
    from dmsae_ray.distill.cycle_store import OtherTrainings as OtherTrainings
    from dmsae_ray.distill.cycle_store import scores_file as scores_file
    from dmsae_ray.distill.cycle_store import scores_from_bytes as scores_from_bytes
    from dmsae_ray.distill.cycle_store import scores_to_bytes as scores_to_bytes
    from dmsae_ray.distill.cycles import run_cycles as run_cycles
    from dmsae_ray.distill.lineage import Lineage as Lineage
    from dmsae_ray.distill.lineage import LineageId as LineageId
    from dmsae_ray.distill.lineage import Origin as Origin
    from dmsae_ray.distill.matching import chance_mcc as chance_mcc
    from dmsae_ray.distill.matching import cosines as cosines
    from dmsae_ray.distill.matching import match_rows as match_rows
    from dmsae_ray.distill.matching import mixed_rows as mixed_rows
    from dmsae_ray.distill.matching import partners as partners
    from dmsae_ray.distill.matching import pw_mcc as pw_mcc
    from dmsae_ray.distill.matching import same_rows as same_rows
    from dmsae_ray.distill.matching import shared_rows as shared_rows
    from dmsae_ray.distill.memory_store import MemoryCycleStore as MemoryCycleStore
    from dmsae_ray.distill.pool_mask import MASKS as MASKS
    from dmsae_ray.distill.reports import DISTILLED as DISTILLED
    from dmsae_ray.distill.reports import CycleReport as CycleReport
    from dmsae_ray.distill.reports import WindowReport as WindowReport
    from dmsae_ray.distill.reports import is_chain as is_chain
    from dmsae_ray.distill.result import DistillationResult as DistillationResult
    from dmsae_ray.distill.seeds import derive_seed as derive_seed
    from dmsae_ray.distill.selection import agreement as agreement
    from dmsae_ray.distill.selection import check_coverage as check_coverage
    from dmsae_ray.distill.selection import select_core as select_core
    from dmsae_ray.distill.trained_cycle import Health as Health
    from dmsae_ray.distill.trained_cycle import TrainedCycle as TrainedCycle

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "attribution": (
            "SCORES",
            "attribution_scores",
            "firing_frequency",
            "pool_scores",
        ),
        "attribution_set": (
            "AttributionSet",
            "TensorPairs",
            "cut",
            "halves",
        ),
        "controls": (
            "gaussian_core",
            "nearest_frequencies",
            "random_core",
        ),
        "core": (
            "Core",
            "distilled_core",
            "empty_core",
            "load_core",
            "save_core",
        ),
        "core_place": (
            "CORE_FILE",
            "core_file",
            "core_on_hub",
            "fetch_core",
        ),
        "core_transfer": (
            "TransferResult",
            "transfer",
        ),
        "correlation": ("rank_correlation",),
        "cost": (
            "scoring_flops",
            "training_flops",
        ),
        "cycle_runner": (
            "CycleCheckpoint",
            "CycleRunner",
        ),
        "cycle_settings": (
            "OPTIONAL_SCORING",
            "CycleSettings",
            "DataSource",
            "cycle_key",
        ),
        "cycle_store": (
            "CycleStore",
            "DirectoryCycleStore",
            "OtherTrainings",
            "scores_file",
            "scores_from_bytes",
            "scores_to_bytes",
        ),
        "cycles": ("run_cycles",),
        "lineage": (
            "Lineage",
            "LineageId",
            "Origin",
        ),
        "matching": (
            "chance_mcc",
            "cosines",
            "match_rows",
            "mixed_rows",
            "partners",
            "pw_mcc",
            "same_rows",
            "shared_rows",
        ),
        "memory_store": ("MemoryCycleStore",),
        "pool_mask": ("MASKS",),
        "reports": (
            "DISTILLED",
            "CycleReport",
            "WindowReport",
            "is_chain",
        ),
        "result": ("DistillationResult",),
        "seeds": ("derive_seed",),
        "selection": (
            "agreement",
            "check_coverage",
            "select_core",
        ),
        "trained_cycle": (
            "Health",
            "TrainedCycle",
        ),
    },
)
