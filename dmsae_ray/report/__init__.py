"""What a sweep found: replicas aggregated, tables, figures, report.md."""

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
