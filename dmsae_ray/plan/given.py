"""What an experiment is given beside its text, checked as far as this machine has it: model, SAEs for cycle 0, core."""

from pathlib import Path

from dmsae_ray.config import Experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.files import HubPlace, find_in_hub_cache, hub_place
from dmsae_ray.lm import check_context, check_files, describe_model, is_configuration_only
from dmsae_ray.plan.model_size import config_file, model_size
from dmsae_ray.plan.trials import times_the_tokens
from dmsae_ray.plan.words import many


def check_given(experiment: Experiment) -> tuple[str, ...]:
    """Check model, SAEs and core, as far as they are on this machine: a plan may be made elsewhere.

    Returns:
        One sentence for each that is not here, and one on what the core cost.

    Raises:
        ConfigError: The model does not read contexts of that length, its folder lacks weights or the tokenizer; or as
            `check_initial_saes` and `check_core`.
        DataError: As these.
    """
    check_every_k(experiment)
    notes = [*_model_notes(experiment)]
    transfer = experiment.transfer
    core = {} if transfer is None or transfer.core is None else {"transfer.core": transfer.core}
    saes = experiment.distill.initial_places
    for given in (saes, core):
        here: dict[str, Path] = {}
        away = []
        for field, place in given.items():
            on_hub = hub_place(place)
            if on_hub is not None:
                found = _in_hub_cache(field, on_hub)
                if found is None:
                    away.append(f"{field} '{place}' is a place on the Hub, no path here: nothing of it was looked at")
                else:
                    here[field] = found
            elif not Path(place).expanduser().exists():
                away.append(f"{field} '{place}' is not on this machine: nothing of it was looked at")
        notes += away
        if given and not away:
            from dmsae_ray.plan.training import check_core, check_initial_saes  # they load torch

            check = check_initial_saes if given is saes else check_core
            hidden = model_size(experiment.model.name, experiment.model.revision).hidden
            for at in map(experiment.at, experiment.points):
                check(at, hidden, here)
            notes += _flop_notes(experiment, here) if given is core else []
    return tuple(notes)


def check_every_k(experiment: Experiment) -> None:
    """Check that SAEs that are given by k are given for every k of the grid.

    Raises:
        ConfigError: There is none for one.
    """
    given = experiment.distill.initial_sae
    missing = [k for k in experiment.ks if isinstance(given, dict) and k not in given]
    if isinstance(given, dict) and missing:
        known = ", ".join(str(other) for other in sorted(given))
        raise ConfigError(
            f"distill.initial_sae has SAEs for k = {known}; {asks(experiment)} {missing[0]}: give one for it"
        )


def asks(experiment: Experiment) -> str:
    """Return the beginning of a sentence about a k of the grid."""
    return f"{'sweep.k' if experiment.sweep.k else 'sae.k'} asks for"


def _flop_notes(experiment: Experiment, here: dict[str, Path]) -> list[str]:
    """Say what an SAE around the core costs beside a baseline, where the core says how it was made."""
    from dmsae_ray.distill import load_core

    transfer = experiment.transfer
    if transfer is None or transfer.core is None or not {"distilled", "baseline"} <= set(transfer.arms):
        return []
    made = load_core(here.get("transfer.core", transfer.core)).trainings
    if made is None:
        return []
    ratios = [
        f"{1 / budget:.2f} alone and {(made + 1) / budget:.2f} with these"
        + (f" where it has {times_the_tokens(budget)}" if budget != 1 else "")
        for budget in transfer.baseline_budgets
    ]
    return [
        f"transfer.core was made by {many(made, 'training')}; the training FLOP of a distilled SAE over that of a "
        f"baseline is {', '.join(ratios)}"
    ]


def _in_hub_cache(field: str, place: HubPlace) -> Path | None:
    """Return what is in the cache of the Hub's client: the folder of an SAE, the file of a core; None if it is not."""
    if field == "transfer.core":
        from dmsae_ray.distill import core_on_hub

        folder, kinds = core_on_hub(place)
        core = find_in_hub_cache(folder, kinds)
        return None if core is None else core.folder / core.names[0]
    from dmsae_ray.sae import SAE_FILES

    sae = find_in_hub_cache(place, SAE_FILES)
    return None if sae is None else sae.folder


def _model_notes(experiment: Experiment) -> tuple[str, ...]:
    model = experiment.model
    file = config_file(model.name, model.revision)
    if model.name == "tiny" or file is not None:
        place = "tiny" if file is None else str(file.parent)
        check_context(model.name, experiment.corpus.context, describe_model(place))
    if is_configuration_only(model.name):
        return (f"model.name '{model.name}' holds a configuration only; a sweep needs weights and tokenizer too",)
    check_files(model.name)
    return ()
