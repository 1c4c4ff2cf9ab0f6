"""The report of a sweep: what it found, over all replicas of each setting.

In: the results of the finished trials (`dmsae_ray.results`), the journal (`dmsae_ray.tracking`) with the curves and
the finished cycles of trials that run, and the scores in the cycle store.
Out: report.html (one file with all in it), report.md, report.json and figures/ in the sweep folder, and a `Report` that
the terminal shows; or one page that compares several sweeps. It needs no Ray session and can be made at any time, from
the first finished cycle on. Pages of single latents (`write_latents`) are made of a sweep's cores (`sweep_latents`) or
of any SAE (`sae_latents`). Questions to a finished sweep have pages of their own: whether other seeds find its cores
again (`rediscovery`), how scores agree with exact ablation (`write_scores`), what its SAEs are worth (`write_quality`);
so has the benchmark with known features (`KnownFeatures`). `write_published` writes the folder of one SAE for others,
with its card.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.report.core_latents import sweep_latents as sweep_latents
    from dmsae_ray.report.evaluated import EvaluatedSAE as EvaluatedSAE
    from dmsae_ray.report.found_again import Rediscovery as Rediscovery
    from dmsae_ray.report.found_again import rediscovery as rediscovery
    from dmsae_ray.report.known_features import KnownFeatures as KnownFeatures
    from dmsae_ray.report.known_findings import findings as findings
    from dmsae_ray.report.known_page import write_known_features as write_known_features
    from dmsae_ray.report.latent_page import latent_sections as latent_sections
    from dmsae_ray.report.latent_page import write_latents as write_latents
    from dmsae_ray.report.latent_study import Wanted as Wanted
    from dmsae_ray.report.latents_of_sae import sae_latents as sae_latents
    from dmsae_ray.report.page import Section as Section
    from dmsae_ray.report.plots import load_plotting as load_plotting
    from dmsae_ray.report.published_folder import known_licence as known_licence
    from dmsae_ray.report.published_folder import write_published as write_published
    from dmsae_ray.report.publishing import HTML_FILE as HTML_FILE
    from dmsae_ray.report.publishing import compare as compare
    from dmsae_ray.report.publishing import publish as publish
    from dmsae_ray.report.quality_page import quality_findings as quality_findings
    from dmsae_ray.report.quality_page import stored_settings as stored_settings
    from dmsae_ray.report.quality_page import write_quality as write_quality
    from dmsae_ray.report.rediscovery_page import read_stability as read_stability
    from dmsae_ray.report.rediscovery_page import rediscovery_section as rediscovery_section
    from dmsae_ray.report.rediscovery_page import write_stability as write_stability
    from dmsae_ray.report.rediscovery_tables import rediscovery_findings as rediscovery_findings
    from dmsae_ray.report.report import Report as Report
    from dmsae_ray.report.score_agreement import Agreement as Agreement
    from dmsae_ray.report.score_agreement import ScoredCycle as ScoredCycle
    from dmsae_ray.report.score_page import score_findings as score_findings
    from dmsae_ray.report.score_page import write_scores as write_scores

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "core_latents": ("sweep_latents",),
        "evaluated": ("EvaluatedSAE",),
        "found_again": (
            "Rediscovery",
            "rediscovery",
        ),
        "known_features": ("KnownFeatures",),
        "known_findings": ("findings",),
        "known_page": ("write_known_features",),
        "latent_page": (
            "latent_sections",
            "write_latents",
        ),
        "latent_study": ("Wanted",),
        "latents_of_sae": ("sae_latents",),
        "page": ("Section",),
        "published_folder": (
            "known_licence",
            "write_published",
        ),
        "plots": ("load_plotting",),
        "publishing": (
            "HTML_FILE",
            "compare",
            "publish",
        ),
        "quality_page": (
            "quality_findings",
            "stored_settings",
            "write_quality",
        ),
        "rediscovery_page": (
            "read_stability",
            "rediscovery_section",
            "write_stability",
        ),
        "rediscovery_tables": ("rediscovery_findings",),
        "report": ("Report",),
        "score_agreement": (
            "Agreement",
            "ScoredCycle",
        ),
        "score_page": (
            "score_findings",
            "write_scores",
        ),
    },
)
