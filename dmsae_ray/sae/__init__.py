"""The Matryoshka SAE (sparse autoencoder) with a frozen core, its training, and its file formats.

Input: batches of activations, a `Recipe`, and the encoder rows of a core. Output: a trained `MatryoshkaSAE`, the
statistics of each step (`StepStats`), the troubles of a training (`HealthMonitor`), and SAE files in our own format, in
dictionary_learning's (which SAEBench reads) and in SAELens's. The room needs torch, which is imported on first use, and
knows nothing of Ray. RECIPE.md lists what it matches in the peer packages.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.sae.any_format import NotedPlace as NotedPlace
    from dmsae_ray.sae.any_format import load_any_sae as load_any_sae
    from dmsae_ray.sae.any_format import noted_place as noted_place
    from dmsae_ray.sae.any_format import sae_folder as sae_folder
    from dmsae_ray.sae.calibration import calibrated_threshold as calibrated_threshold
    from dmsae_ray.sae.chosen_latents import LatentRows as LatentRows
    from dmsae_ray.sae.chosen_latents import latent_rows as latent_rows
    from dmsae_ray.sae.chosen_latents import together as together
    from dmsae_ray.sae.dictionary import MatryoshkaSAE as MatryoshkaSAE
    from dmsae_ray.sae.dictionary_learning import export_dictionary_learning as export_dictionary_learning
    from dmsae_ray.sae.dictionary_learning import load_dictionary_learning as load_dictionary_learning
    from dmsae_ray.sae.files import about_sae as about_sae
    from dmsae_ray.sae.files import encoder_rows as encoder_rows
    from dmsae_ray.sae.files import load_sae as load_sae
    from dmsae_ray.sae.files import save_sae as save_sae
    from dmsae_ray.sae.groups import CORE_TAKES as CORE_TAKES
    from dmsae_ray.sae.groups import CoreTakes as CoreTakes
    from dmsae_ray.sae.groups import non_core_groups as non_core_groups
    from dmsae_ray.sae.health import TROUBLES as TROUBLES
    from dmsae_ray.sae.health import Diagnosis as Diagnosis
    from dmsae_ray.sae.health import HealthMonitor as HealthMonitor
    from dmsae_ray.sae.health import Trouble as Trouble
    from dmsae_ray.sae.layouts import SAE_FILES as SAE_FILES
    from dmsae_ray.sae.ranks import RankGroup as RankGroup
    from dmsae_ray.sae.recipe import Recipe as Recipe
    from dmsae_ray.sae.saelens import export_saelens as export_saelens
    from dmsae_ray.sae.saelens import load_saelens as load_saelens
    from dmsae_ray.sae.saelens_fields import saelens_metadata as saelens_metadata
    from dmsae_ray.sae.stats import StepStats as StepStats
    from dmsae_ray.sae.trainer import SAETrainer as SAETrainer

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "any_format": (
            "NotedPlace",
            "load_any_sae",
            "noted_place",
            "sae_folder",
        ),
        "calibration": ("calibrated_threshold",),
        "chosen_latents": (
            "LatentRows",
            "latent_rows",
            "together",
        ),
        "dictionary": ("MatryoshkaSAE",),
        "dictionary_learning": (
            "export_dictionary_learning",
            "load_dictionary_learning",
        ),
        "files": (
            "about_sae",
            "encoder_rows",
            "load_sae",
            "save_sae",
        ),
        "groups": (
            "CORE_TAKES",
            "CoreTakes",
            "non_core_groups",
        ),
        "health": (
            "TROUBLES",
            "Diagnosis",
            "HealthMonitor",
            "Trouble",
        ),
        "layouts": ("SAE_FILES",),
        "ranks": ("RankGroup",),
        "recipe": ("Recipe",),
        "saelens": (
            "export_saelens",
            "load_saelens",
        ),
        "saelens_fields": ("saelens_metadata",),
        "stats": ("StepStats",),
        "trainer": ("SAETrainer",),
    },
)
