"""Tracking: the MLflow runs of a sweep, and the journal behind them.

In: the events and reports of trials (from Ray Tune, in the controller), and the results of finished trials.
Out: a journal file in the sweep folder, and in MLflow a parent run with one child run per trial.
Only the controller uses this room. Each record is written to the journal first and then delivered to MLflow, so that a
server that does not answer stops nothing and no record is logged twice.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.tracking.callback import TrackingCallback as TrackingCallback
    from dmsae_ray.tracking.callback import log_finished as log_finished
    from dmsae_ray.tracking.destination import Destination as Destination
    from dmsae_ray.tracking.destination import destination_of as destination_of
    from dmsae_ray.tracking.journal import read_journal as read_journal
    from dmsae_ray.tracking.tracker import JOURNAL_FILE as JOURNAL_FILE
    from dmsae_ray.tracking.tracker import Status as Status
    from dmsae_ray.tracking.tracker import SweepTracker as SweepTracker

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "callback": (
            "TrackingCallback",
            "log_finished",
        ),
        "destination": (
            "Destination",
            "destination_of",
        ),
        "journal": ("read_journal",),
        "tracker": (
            "JOURNAL_FILE",
            "Status",
            "SweepTracker",
        ),
    },
)
