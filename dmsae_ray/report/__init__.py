"""The report of a sweep: what it found, over all replicas of each setting.

In: the results of the finished trials (`dmsae_ray.results`), and the curves in the journal (`dmsae_ray.tracking`).
Out: report.md, report.json and figures/*.png in the sweep folder, and a `Report` that the terminal shows.
It needs no Ray session and can be made again at any time.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.report.publishing import publish as publish
    from dmsae_ray.report.report import Report as Report

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "publishing": ("publish",),
        "report": ("Report",),
    },
)
