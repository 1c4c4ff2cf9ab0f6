"""Tracking: the MLflow runs of a sweep, and the journal behind them.

In: the events and reports of trials (from Ray Tune, in the controller), and the results of finished trials.
Out: a journal file in the sweep folder, and in MLflow a parent run with one child run per trial.
Only the controller uses this room. Each record is written to the journal first and then delivered to MLflow, so that a
server that does not answer stops nothing and no record is logged twice.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.tracking.benchmark_records import BenchmarkRecords as BenchmarkRecords
    from dmsae_ray.tracking.callback import TrackingCallback as TrackingCallback
    from dmsae_ray.tracking.destination import Destination as Destination
    from dmsae_ray.tracking.destination import destination_at as destination_at
    from dmsae_ray.tracking.destination import destination_of as destination_of
    from dmsae_ray.tracking.evaluations import record_evaluations as record_evaluations
    from dmsae_ray.tracking.journal import read_journal as read_journal
    from dmsae_ray.tracking.names import RunName as RunName
    from dmsae_ray.tracking.outline import read_outline as read_outline
    from dmsae_ray.tracking.registered import register_sae as register_sae
    from dmsae_ray.tracking.sweep_records import describe_software as describe_software
    from dmsae_ray.tracking.sweep_records import describe_sweep as describe_sweep
    from dmsae_ray.tracking.sweep_records import save_views as save_views
    from dmsae_ray.tracking.sweep_records import views_of as views_of
    from dmsae_ray.tracking.tracker import JOURNAL_FILE as JOURNAL_FILE
    from dmsae_ray.tracking.tracker import Status as Status
    from dmsae_ray.tracking.tracker import SweepTracker as SweepTracker
    from dmsae_ray.tracking.trial_records import TrialRecords as TrialRecords
    from dmsae_ray.tracking.trial_records import record_finished as record_finished
    from dmsae_ray.tracking.ui import free_port as free_port
    from dmsae_ray.tracking.ui import ui_server as ui_server
    from dmsae_ray.tracking.ui import views_in_store as views_in_store

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "benchmark_records": ("BenchmarkRecords",),
        "callback": ("TrackingCallback",),
        "destination": (
            "Destination",
            "destination_at",
            "destination_of",
        ),
        "evaluations": ("record_evaluations",),
        "journal": ("read_journal",),
        "names": ("RunName",),
        "outline": ("read_outline",),
        "registered": ("register_sae",),
        "sweep_records": (
            "describe_software",
            "describe_sweep",
            "save_views",
            "views_of",
        ),
        "tracker": (
            "JOURNAL_FILE",
            "Status",
            "SweepTracker",
        ),
        "trial_records": (
            "TrialRecords",
            "record_finished",
        ),
        "ui": (
            "free_port",
            "ui_server",
            "views_in_store",
        ),
    },
)
