"""The dictionary and its training: MatryoshkaSAE, Recipe, SAETrainer, files. Torch only, imported on first use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmsae_ray.sae.dictionary import MatryoshkaSAE
    from dmsae_ray.sae.dictionary_learning import export_dictionary_learning, load_dictionary_learning
    from dmsae_ray.sae.files import about_sae, load_sae, save_sae
    from dmsae_ray.sae.health import TROUBLES, Diagnosis, HealthMonitor, Trouble
    from dmsae_ray.sae.recipe import Recipe
    from dmsae_ray.sae.saelens import export_saelens
    from dmsae_ray.sae.stats import StepStats
    from dmsae_ray.sae.trainer import SAETrainer

_WHERE = {
    "TROUBLES": "health",
    "Diagnosis": "health",
    "HealthMonitor": "health",
    "MatryoshkaSAE": "dictionary",
    "Recipe": "recipe",
    "SAETrainer": "trainer",
    "StepStats": "stats",
    "Trouble": "health",
    "about_sae": "files",
    "export_dictionary_learning": "dictionary_learning",
    "export_saelens": "saelens",
    "load_dictionary_learning": "dictionary_learning",
    "load_sae": "files",
    "save_sae": "files",
}

__all__ = [
    "TROUBLES",
    "Diagnosis",
    "HealthMonitor",
    "MatryoshkaSAE",
    "Recipe",
    "SAETrainer",
    "StepStats",
    "Trouble",
    "about_sae",
    "export_dictionary_learning",
    "export_saelens",
    "load_dictionary_learning",
    "load_sae",
    "save_sae",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
