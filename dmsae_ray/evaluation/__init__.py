"""How good an SAE is: variance explained, L0 in its two parts, loss recovered; what single latents do, and where.

Input: a `MatryoshkaSAE` that takes raw activations, with batches of raw activations (`evaluate`, `measure_prefixes`),
or with a tapped language model and tokens (`loss_recovered`), or with a model whose activations can be replaced
(`ablation`, `integrated_gradients`), or with activations of words (`first_letter_absorption`); its decoder rows alone
(`decoder_geometry`); or activations of single latents (`FiringCollector`). Output: the figures, as `Metrics`,
`LossRecovered`, `LatentFiring` and others, or one number a latent; `QUALITY` names those that measure a whole SAE. The
room trains no SAE and reads no files.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.evaluation.co_activation import CoActivation as CoActivation
    from dmsae_ray.evaluation.dictionary_geometry import DictionaryGeometry as DictionaryGeometry
    from dmsae_ray.evaluation.dictionary_geometry import Nearness as Nearness
    from dmsae_ray.evaluation.dictionary_geometry import decoder_geometry as decoder_geometry
    from dmsae_ray.evaluation.firing_frequency import FREQUENCY_EDGES as FREQUENCY_EDGES
    from dmsae_ray.evaluation.firing_frequency import FiringFrequency as FiringFrequency
    from dmsae_ray.evaluation.firing_frequency import frequency_distribution as frequency_distribution
    from dmsae_ray.evaluation.first_letter import FirstLetter as FirstLetter
    from dmsae_ray.evaluation.first_letter import LetterAbsorption as LetterAbsorption
    from dmsae_ray.evaluation.first_letter import first_letter_absorption as first_letter_absorption
    from dmsae_ray.evaluation.gradient_path import integrated_gradients as integrated_gradients
    from dmsae_ray.evaluation.latent_ablation import SplicedModel as SplicedModel
    from dmsae_ray.evaluation.latent_ablation import Units as Units
    from dmsae_ray.evaluation.latent_ablation import ablation as ablation
    from dmsae_ray.evaluation.latent_firing import FiringCollector as FiringCollector
    from dmsae_ray.evaluation.latent_firing import LatentFiring as LatentFiring
    from dmsae_ray.evaluation.latent_firing import Quantiles as Quantiles
    from dmsae_ray.evaluation.latent_firing import Snippet as Snippet
    from dmsae_ray.evaluation.letter_probes import LetterProbes as LetterProbes
    from dmsae_ray.evaluation.letter_probes import fit_letter_probes as fit_letter_probes
    from dmsae_ray.evaluation.metrics import Metrics as Metrics
    from dmsae_ray.evaluation.metrics import evaluate as evaluate
    from dmsae_ray.evaluation.prefix_reconstruction import PrefixReconstruction as PrefixReconstruction
    from dmsae_ray.evaluation.prefix_reconstruction import measure_prefixes as measure_prefixes
    from dmsae_ray.evaluation.quality_names import QUALITY as QUALITY
    from dmsae_ray.evaluation.quality_names import QualityName as QualityName
    from dmsae_ray.evaluation.spliced_contexts import SplicedContexts as SplicedContexts
    from dmsae_ray.evaluation.spliced_loss import LossRecovered as LossRecovered
    from dmsae_ray.evaluation.spliced_loss import loss_recovered as loss_recovered
    from dmsae_ray.evaluation.word_sample import WordSample as WordSample
    from dmsae_ray.evaluation.word_sample import sample_words as sample_words

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "co_activation": ("CoActivation",),
        "dictionary_geometry": (
            "DictionaryGeometry",
            "Nearness",
            "decoder_geometry",
        ),
        "firing_frequency": (
            "FREQUENCY_EDGES",
            "FiringFrequency",
            "frequency_distribution",
        ),
        "first_letter": (
            "FirstLetter",
            "LetterAbsorption",
            "first_letter_absorption",
        ),
        "gradient_path": ("integrated_gradients",),
        "latent_ablation": (
            "SplicedModel",
            "Units",
            "ablation",
        ),
        "latent_firing": (
            "FiringCollector",
            "LatentFiring",
            "Quantiles",
            "Snippet",
        ),
        "letter_probes": (
            "LetterProbes",
            "fit_letter_probes",
        ),
        "metrics": (
            "Metrics",
            "evaluate",
        ),
        "prefix_reconstruction": (
            "PrefixReconstruction",
            "measure_prefixes",
        ),
        "quality_names": (
            "QUALITY",
            "QualityName",
        ),
        "spliced_contexts": ("SplicedContexts",),
        "spliced_loss": (
            "LossRecovered",
            "loss_recovered",
        ),
        "word_sample": (
            "WordSample",
            "sample_words",
        ),
    },
)
