"""Turn an experiment and a trial into what the training rooms take: cycle settings and the initial SAE."""

from collections.abc import Mapping
from pathlib import Path

from dmsae_ray.config import Experiment
from dmsae_ray.distill import CycleSettings, load_core
from dmsae_ray.errors import ConfigError, DataError, DmsaeError
from dmsae_ray.files import HUB_FORM, hub_place
from dmsae_ray.plan.given import asks, check_every_k
from dmsae_ray.plan.trials import CycleSetting, Setting, TransferSetting
from dmsae_ray.sae import (
    CORE_TAKES,
    SAE_FILES,
    MatryoshkaSAE,
    NotedPlace,
    Recipe,
    load_any_sae,
    non_core_groups,
    noted_place,
)

Here = Mapping[str, Path]
"""Where the files that settings name are on this machine: folders of SAEs, a file of a core."""
NOWHERE: Here = {}


def cycle_settings(experiment: Experiment, setting: Setting, d_model: int) -> CycleSettings:
    """Return what determines the trainings of a trial, apart from core, seed and data.

    Args:
        experiment: The experiment.
        setting: The setting of the trial.
        d_model: Width of the activations x.
    """
    sae, distill = experiment.sae, experiment.distill
    recipe = experiment.recipe.times(setting.budget if isinstance(setting, TransferSetting) else 1.0)
    steps = recipe.steps
    return CycleSettings(
        n_latents=sae.n_latents,
        group_sizes=sae.groups,
        k=setting.k,
        core_sparsity=setting.core_sparsity,
        core_decoder_init=sae.core_decoder_init,
        core_takes=sae.core_takes,
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
        mask=distill.mask,
        intersect=distill.intersect,
        attribution_parts=distill.attribution_parts if isinstance(setting, CycleSetting) else 1,
    )


def check_initial_saes(experiment: Experiment, d_model: int, here: Here = NOWHERE) -> None:
    """Check that there is an SAE for cycle 0 for every k of the grid, where SAEs are given at all.

    Those on the Hub that are not in `here` are passed over.

    Raises:
        ConfigError: As `initial_sae`.
        DataError: As `initial_sae`.
    """
    given = experiment.distill.initial_sae
    if isinstance(given, str):
        if not _is_away("distill.initial_sae", given, here):
            sae = _loaded("distill.initial_sae", given, experiment, d_model, experiment.ks[0], here)
            for k in experiment.ks:
                _check_k("distill.initial_sae", given, sae, k, experiment)
        return
    for k in experiment.ks:
        if given is None or k not in given or not _is_away(f"distill.initial_sae.{k}", given[k], here):
            initial_sae(experiment, d_model, k, here)


def _is_away(field: str, place: str, here: Here) -> bool:
    return field not in here and hub_place(place) is not None


def check_core(experiment: Experiment, d_model: int, here: Here = NOWHERE) -> None:
    """Check that there is a core to transfer, where the experiment needs one, and that it fits.

    One on the Hub that is not in `here` is passed over.

    Raises:
        ConfigError: It is not there, has another width or too many rows, or was borne by a seed of the experiment.
        DataError: Its file is truncated or wrong.
    """
    transfer = experiment.transfer
    if transfer is None or set(transfer.arms) == {"baseline"}:
        return
    if transfer.core is None:
        raise ConfigError(
            f"transfer.core is missing; arms {list(transfer.arms)} need a core file: --core CORE, "
            "or transfer.arms=[baseline]"
        )
    if _is_away("transfer.core", transfer.core, here):
        return
    try:
        core = load_core(here.get("transfer.core", transfer.core), d_model)
    except DmsaeError as error:
        raise type(error)(f"transfer.core is '{transfer.core}'; {error}") from None
    rows = len(core)
    most = experiment.sae.n_latents - max(len(experiment.sae.groups), *experiment.ks)
    if not 1 <= rows <= most:
        raise ConfigError(
            f"transfer.core is '{transfer.core}', of {rows} rows; beside sae.n_latents = "
            f"{experiment.sae.n_latents}, {len(experiment.sae.groups)} groups and k = {max(experiment.ks)} "
            f"it must have 1 to {most}"
        )
    trained_with_it = "distilled" in transfer.arms
    bore = [seed for seed in experiment.sweep.seeds if trained_with_it and core.borne_by(seed)]
    if bore:
        raise ConfigError(
            f"sweep.seeds is {list(experiment.sweep.seeds)}; {bore[0]} bore transfer.core '{transfer.core}', whose "
            "own directions a fresh SAE of that seed begins with: give other seeds, as --set sweep.seeds=[10,11,12]"
        )


def initial_sae(experiment: Experiment, d_model: int, k: int, here: Here = NOWHERE) -> MatryoshkaSAE | None:
    """Load the SAE that serves as cycle 0 of trials of `k`: ours, dictionary_learning's (SAEBench) or SAELens's.

    Args:
        experiment: The experiment.
        d_model: Width of the residual stream.
        k: The sparsity.
        here: Folders on this machine to read in place of what the settings name, by setting: copies.

    Returns:
        The SAE, or None if `distill.initial_sae` is not given.

    Raises:
        ConfigError: There is no SAE for this k, or none at its place, or it has another width, number of latents,
            groups, k (unless `distill.initial_sae_any_k`), model or layer, or fewer groups than `distill.pool_groups`.
        DataError: Its files are truncated or wrong.
    """
    given = experiment.distill.initial_sae
    if given is None:
        return None
    field, place = "distill.initial_sae", given
    if isinstance(place, dict):
        check_every_k(experiment)
        field, place = f"distill.initial_sae.{k}", place[k]
    sae = _loaded(field, place, experiment, d_model, k, here)
    _check_k(field, place, sae, k, experiment)
    return sae


def _check_k(field: str, place: str, sae: MatryoshkaSAE, k: int, experiment: Experiment) -> None:
    if sae.k != k and not experiment.distill.initial_sae_any_k:
        raise ConfigError(
            f"{field} is '{place}', of k = {sae.k}; {asks(experiment)} {k}: give an SAE for each k, as "
            f"distill.initial_sae={{{sae.k}: …, {k}: …}}, or distill.initial_sae_any_k=true"
        )


def _loaded(field: str, place: str, experiment: Experiment, d_model: int, k: int, here: Here) -> MatryoshkaSAE:
    folder = here.get(field, Path(place).expanduser())
    if not any((folder / files[0]).is_file() for files in SAE_FILES):
        raise ConfigError(
            f"{field} is '{place}'; it must be the folder of a trained SAE, with the weights and the "
            "config.json of this package (cycles/<key>/sae) or of dictionary_learning, or the cfg.json of SAELens; "
            f"or a place on the Hub that holds such files, {HUB_FORM}"
        )
    try:
        sae, noted = load_any_sae(folder, k=k), noted_place(folder)
    except DmsaeError as error:
        raise type(error)(f"{field} is '{place}'; {error}") from None
    _check_place(f"{field} is '{place}'", noted, experiment)
    wrong = [name for name, tensor in sae.state_dict().items() if not bool(tensor.isfinite().all())]
    if wrong:
        raise DataError(f"{field} is '{place}'; its {wrong[0]} holds numbers that are NaN or infinite")
    if sae.d_model != d_model:
        raise ConfigError(
            f"{field} is '{place}', of width {sae.d_model}; "
            f"the residual stream of model.name '{experiment.model.name}' has width {d_model}"
        )
    if experiment.distill.pool_groups > len(sae.group_sizes):
        raise ConfigError(
            f"distill.pool_groups is {experiment.distill.pool_groups}; "
            f"{field} '{place}' has {len(sae.group_sizes)} groups"
        )
    if sae.n_latents != experiment.sae.n_latents:
        raise ConfigError(
            f"{field} is '{place}', of {sae.n_latents} latents; it must have sae.n_latents = {experiment.sae.n_latents}"
        )
    groups = [non_core_groups(experiment.sae.groups, sae.n_latents, sae.n_core, takes) for takes in CORE_TAKES]
    if sae.group_sizes not in groups:
        raise ConfigError(
            f"{field} is '{place}', with the groups {list(sae.group_sizes)}"
            f"{f' beside a core of {sae.n_core}' if sae.n_core else ''}; it must have those of the experiment, "
            f"{list(experiment.sae.groups)}{', less its core' if sae.n_core else ''}"
        )
    return sae


def _check_place(said: str, noted: NotedPlace, experiment: Experiment) -> None:
    """Check that an SAE was trained on the activations of the experiment, as far as its files say it.

    Raises:
        ConfigError: It was trained on another model, after another block, or not on the residual stream.
    """
    model, layer = experiment.model.name, experiment.model.layer
    if noted.elsewhere is not None:
        raise ConfigError(f"{said}, trained on '{noted.elsewhere}'; it must be of the residual stream between blocks")
    if noted.layer is not None and noted.layer != layer:
        raise ConfigError(f"{said}, trained after block {noted.layer}; it must be of model.layer = {layer}")
    # A path says nothing: the same model lies elsewhere on another machine.
    named = noted.model is not None and not Path(noted.model).is_absolute() and not Path(model).is_absolute()
    if noted.model is not None and named and _short(noted.model) != _short(model):
        raise ConfigError(f"{said}, trained on model '{noted.model}'; it must be of model.name '{model}'")


def _short(model: str) -> str:
    """Return the name of a model without its organisation, which many files leave out, and mirrors change."""
    return model.rpartition("/")[2].lower()
