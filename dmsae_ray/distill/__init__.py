"""The paper's algorithms: attribution, selection, lineage, and the loop of cycles. torch, numpy and scipy only."""

from dmsae_ray.distill.attribution import attribution_scores, firing_frequency
from dmsae_ray.distill.core import Core, distilled_core, load_core, save_core
from dmsae_ray.distill.cycle import run_cycles
from dmsae_ray.distill.cycle_store import CycleStore, DirectoryCycleStore
from dmsae_ray.distill.history import History
from dmsae_ray.distill.lineage import LineageId
from dmsae_ray.distill.outcome import CycleOutcome, Health
from dmsae_ray.distill.records import CycleRecord, WindowRecord
from dmsae_ray.distill.runner import CycleCheckpoint
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.distill.selection import select_core
from dmsae_ray.distill.settings import CycleSettings, DataSource, cycle_key
from dmsae_ray.distill.transfer import Transfer, transfer

__all__ = [
    "Core",
    "CycleCheckpoint",
    "CycleOutcome",
    "CycleRecord",
    "CycleSettings",
    "CycleStore",
    "DataSource",
    "DirectoryCycleStore",
    "Health",
    "History",
    "LineageId",
    "Transfer",
    "WindowRecord",
    "attribution_scores",
    "cycle_key",
    "derive_seed",
    "distilled_core",
    "firing_frequency",
    "load_core",
    "run_cycles",
    "save_core",
    "select_core",
    "transfer",
]
