"""Turn an experiment and a trial into what the training rooms take: cycle settings and the initial SAE."""

import json
from pathlib import Path

from dmsae_ray.config import Experiment
from dmsae_ray.distill import CycleSettings
from dmsae_ray.errors import ConfigError, DmsaeError
from dmsae_ray.plan.trials import Setting
from dmsae_ray.sae import MatryoshkaSAE, Recipe, load_dictionary_learning, load_sae


def cycle_settings(experiment: Experiment, setting: Setting, d_model: int) -> CycleSettings:
    """Return what determines the trainings of a trial, apart from core, seed and data.

    Args:
        experiment: The experiment.
        setting: The setting of the trial.
        d_model: Width of the activations x.
    """
    recipe, sae, distill = experiment.recipe, experiment.sae, experiment.distill
    steps = recipe.steps
    return CycleSettings(
        n_latents=sae.n_latents,
        group_sizes=sae.groups,
        k=setting.k,
        core_sparsity=setting.core_sparsity,
        core_decoder_init=sae.core_decoder_init,
        recipe=Recipe(
            steps=steps,
            lr=recipe.lr,
            warmup_steps=recipe.warmup_steps,
            decay_start=int(recipe.decay_start * steps),
            betas=recipe.betas,
            clip_norm=recipe.clip_norm,
            auxk_alpha=recipe.auxk_alpha,
            k_aux=recipe.k_aux or d_model // 2,
            dead_after_tokens=recipe.dead_after_tokens,
            threshold_beta=recipe.threshold_beta,
            threshold_start_step=recipe.threshold_start_step,
            threshold=recipe.threshold,
            group_weights=recipe.group_weights,
            stop_on=recipe.stop_on,
        ),
        batch_size=recipe.batch_size,
        steps=steps,
        quantile=distill.quantile,
        score=distill.score,
        pool_groups=distill.pool_groups,
    )


def initial_sae(experiment: Experiment, d_model: int) -> MatryoshkaSAE | None:
    """Load the SAE that serves as cycle 0, in our own format or that of dictionary_learning (SAEBench).

    Returns:
        The SAE, or None if `distill.initial_sae` is not given.

    Raises:
        ConfigError: There is no SAE at that place, it has another width, or it has fewer groups than
            `distill.pool_groups`.
        DataError: Its files are truncated or wrong.
    """
    place = experiment.distill.initial_sae
    if place is None:
        return None
    folder = Path(place).expanduser()
    config = folder / "config.json"
    if not config.is_file():
        found = "a file of SAELens, which says nothing of groups, is there; " if (folder / "cfg.json").is_file() else ""
        raise ConfigError(
            f"distill.initial_sae is '{place}'; {found}it must be the folder of a trained SAE, with a config.json and "
            "the weights of this package (cycles/<key>/sae) or of dictionary_learning"
        )
    try:
        tree = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        tree = None
    if not isinstance(tree, dict):
        raise ConfigError(f"distill.initial_sae is '{place}'; its config.json is not a readable JSON object")
    try:
        sae = load_dictionary_learning(folder) if "trainer" in tree else load_sae(folder)
    except DmsaeError as error:
        raise type(error)(f"distill.initial_sae is '{place}'; {error}") from None
    if sae.d_model != d_model:
        raise ConfigError(
            f"distill.initial_sae is '{place}', of width {sae.d_model}; "
            f"the residual stream of model.name '{experiment.model.name}' has width {d_model}"
        )
    if experiment.distill.pool_groups > len(sae.group_sizes):
        raise ConfigError(
            f"distill.pool_groups is {experiment.distill.pool_groups}; "
            f"distill.initial_sae '{place}' has {len(sae.group_sizes)} groups"
        )
    return sae
