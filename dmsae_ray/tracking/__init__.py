"""MLflow runs of a sweep, the journal behind them, the report and the figures."""

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
