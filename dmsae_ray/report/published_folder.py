"""The folder of a published SAE: its files for several libraries, its core, its numbers and its card.

No file names a folder, a bucket or a server of the machine that trained it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from dmsae_ray import __version__
from dmsae_ray.config import Experiment
from dmsae_ray.distill import DISTILLED, Core, CycleReport, core_file, load_core
from dmsae_ray.errors import ConfigError
from dmsae_ray.files import HUB_SCHEME, Folder, is_hub_id, nan_to_null, on_this_machine, public_name, replacing
from dmsae_ray.lm import Licence, licence_of
from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.found_again import Rediscovery
from dmsae_ray.report.measured_quality import read_quality
from dmsae_ray.report.model_card import model_card
from dmsae_ray.report.published_sae import FORMATS, PublishedSAE
from dmsae_ray.report.report import make_report
from dmsae_ray.report.trial_cores import trial_cores
from dmsae_ray.results import CORE_FILE, INPUTS_FILE, SUMMARY_FILE, Folders, TrialResult
from dmsae_ray.sae import (
    MatryoshkaSAE,
    about_sae,
    export_dictionary_learning,
    export_saelens,
    load_sae,
    saelens_metadata,
    save_sae,
)
from dmsae_ray.store import note_of, read_layout

CARD, NUMBERS, EXPERIMENT = "README.md", "metrics.json", "experiment.yaml"
_FILES = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "dmsae": ("config.json", "sae.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
}
_PRIVATE = {"output", "resources", "tracking"}
"""Sections that say where an experiment ran; no result depends on them."""


def write_published(
    folders: Folders,
    sae_folder: Path,
    result: TrialResult,
    report: CycleReport,
    experiment: Experiment,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    repo: str | None = None,
    licence: str | None = None,
    found: Rediscovery | None = None,
) -> list[str]:
    """Write the folder of one SAE, the card last; return the names of its files, sorted.

    Args:
        folders: the sweep's folders.
        sae_folder: the folder of the SAE.
        result: its trial.
        report: its cycle or control.
        experiment: the sweep's experiment.
        out: the folder to write: empty, or written before for the same SAE.
        formats: which of `FORMATS`.
        repo: user/name of the repository that it will be in; None while there is none.
        licence: id of the licence; None: that of the language model, where it is known.
        found: rediscovery of the sweep's cores, where it was measured.

    Raises:
        ConfigError: the folder cannot be written, or holds something else.
        DataError: a file is missing or damaged.
    """
    sae, public = load_sae(sae_folder), public_experiment(experiment)
    about = _public_note(_whole_note(folders, about_sae(sae_folder), experiment), experiment)
    over_seeds = _over_seeds(folders.sweep, result)
    core, core_content = _core_of(folders, result, report, experiment)
    one = PublishedSAE(
        result=result,
        report=report,
        experiment=public,
        about=about,
        public=_public(experiment),
        sae=sae,
        over_seeds=over_seeds,
        core=core,
        places=() if core is None else _places(core, result, report),
        found=found,
        quality=read_quality(folders.sweep, result, report, () if over_seeds is None else over_seeds.seeds),
        licence=known_licence(experiment) if licence is None else Licence(licence, ""),
        formats=tuple(formats),
        repo=repo,
        files=_described(core, result),
    )
    try:
        _check_is_free(out, report)
        out.mkdir(parents=True, exist_ok=True)
        # First, since it says which SAE the folder is of: a call that was cut off can be made again.
        _write(out / NUMBERS, json.dumps(_numbers(one), indent=1, allow_nan=False))
        names = _write_sae(sae, out, about, formats)
        for name, content in _texts(one).items():
            _write(out / name, content)
            names.append(name)
        if core is not None:
            _write(out / CORE_FILE, core_content)
            names.append(CORE_FILE)
    except OSError as error:
        raise ConfigError(f"--out is '{out}'; it cannot be written ({error.strerror or error})") from None
    return sorted([*names, NUMBERS])


def _public(experiment: Experiment) -> frozenset[str]:
    """Return what others find: 'model' on the Hub, 'text' on the Hub, or what every Python carries."""
    path = experiment.corpus.path
    on_hub = experiment.corpus.source == "huggingface" and is_hub_id(path or "")
    text = path is None or on_hub or path.startswith(HUB_SCHEME)
    model = is_hub_id(experiment.model.name)
    return frozenset(name for name, known in (("model", model), ("text", text)) if known)


def known_licence(experiment: Experiment) -> Licence | None:
    """Return the licence of the experiment's language model; None where it is not known."""
    return licence_of(experiment.model.name, experiment.model.revision)


def public_experiment(experiment: Experiment) -> Experiment:
    """Return the experiment as others may read it: without the sections that say where it ran; paths by their names."""
    shown: dict[str, Any] = experiment.model_dump(mode="json", exclude=_PRIVATE)
    shown["model"]["name"] = public_name(experiment.model.name)
    if experiment.corpus.path is not None:
        shown["corpus"]["path"] = public_name(experiment.corpus.path)
    given = experiment.distill.initial_sae
    if given is not None:
        named = public_name(given) if isinstance(given, str) else {k: public_name(p) for k, p in given.items()}
        shown["distill"]["initial_sae"] = named
    if experiment.transfer is not None and experiment.transfer.core is not None:
        shown["transfer"]["core"] = public_name(experiment.transfer.core)
    return Experiment.model_validate(shown)


def _over_seeds(sweep: Path, result: TrialResult) -> Aggregate[Setting] | None:
    report = make_report(sweep)
    every: list[Aggregate[Setting]] = [*report.cycles, *report.transfers]
    return next((one for one in every if one.setting == result.setting), None)


def _whole_note(folders: Folders, about: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Return the note with an SAE; what an old one does not say is taken from the experiment and the store."""
    if "text" in about:
        return about
    key = str(about.get("store", ""))
    layout = read_layout(folders.output / "stores" / key) if key else None
    return {**note_of(experiment, key, layout), **about}


def _public_note(about: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    text = about["text"]
    path = None if text["path"] is None else public_name(text["path"])
    # The last part of a path would be read as the name of a data set of the Hub.
    source = text["source"] if "text" in _public(experiment) else "local"
    return {
        **about,
        "model": public_name(about["model"]),
        "corpus": public_name(about["corpus"]),
        "text": {**text, "path": path, "source": source},
    }


def _core_of(
    folders: Folders, result: TrialResult, report: CycleReport, experiment: Experiment
) -> tuple[Core | None, bytes]:
    """Return the core that goes along with an SAE, and its file; None for a control, or where it is gone."""
    if report.arm != DISTILLED:
        return None, b""
    if isinstance(result.setting, CycleSetting):
        folder, name = folders.shared / "trials" / result.trial_id, CORE_FILE
    else:
        folder, name = _given_core(folders, experiment)
    if folder.size(name) is None:
        return None, b""
    with on_this_machine(folder, (name,)) as here:
        return load_core(here / name), (here / name).read_bytes()


def _given_core(folders: Folders, experiment: Experiment) -> tuple[Folder, str]:
    """Return where the core of a sweep of transfers is: its copy in the output, or what the config names."""
    noted = folders.shared.read(INPUTS_FILE) or b"{}"
    copy = folders.given / str(json.loads(noted).get("transfer.core"))
    for name in copy.sizes():
        if name.endswith(".safetensors"):
            return copy, name
    assert experiment.transfer is not None, "its trials are transfers"
    path = core_file(experiment.transfer.core or "")
    return Folder(str(path.absolute().parent)), path.name


def _places(core: Core, result: TrialResult, report: CycleReport) -> tuple[int, ...]:
    """Return the row in the SAE of each latent of the core; none where one was learned later than the SAE."""
    if not isinstance(result.setting, CycleSetting):
        return tuple(range(len(core)))
    found = trial_cores([result], None, [])
    rows = [found[0].row(report.cycle, i) for i in core.lineage] if found else []
    known = tuple(row for row in rows if row is not None)
    return known if len(known) == len(rows) else ()


def _described(core: Core | None, result: TrialResult) -> tuple[tuple[str, str], ...]:
    files = [
        (EXPERIMENT, "every setting, without what says where it ran"),
        (NUMBERS, "the numbers of this page and more, for programs"),
        (SUMMARY_FILE, "the whole result of the trial: every cycle, control and lineage"),
    ]
    if core is not None:
        what = "the distilled core" if isinstance(result.setting, CycleSetting) else "the given core"
        files.insert(0, (CORE_FILE, f"{what}: encoder rows, lineage, the training that learned each row"))
    return tuple(files)


def _check_is_free(out: Path, report: CycleReport) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        key = json.loads((out / NUMBERS).read_text(encoding="utf-8"))["sae"]["key"]
    except (OSError, ValueError, KeyError, TypeError):
        key = None
    if key != report.key:
        raise ConfigError(f"--out is '{out}'; it must be a new folder, or one that was written for this SAE")


def _write_sae(sae: MatryoshkaSAE, out: Path, about: dict[str, Any], formats: Sequence[str]) -> list[str]:
    if "saelens" in formats:
        export_saelens(sae, out / "saelens", **saelens_metadata(about))
    if "dmsae" in formats:
        save_sae(sae, out / "dmsae", about)
    if "dictionary_learning" in formats:
        export_dictionary_learning(sae, out / "dictionary_learning", lm_name=about["model"], layer=about["layer"])
    for name in set(FORMATS) - set(formats):  # of an earlier call
        for file in _FILES[name]:
            (out / name / file).unlink(missing_ok=True)
        if (out / name).is_dir() and not any((out / name).iterdir()):
            (out / name).rmdir()
    return [f"{name}/{file}" for name in formats for file in _FILES[name]]


def _numbers(one: PublishedSAE) -> dict[str, Any]:
    """Return the numbers for programs."""
    return {
        "made_by": f"dmsae_ray {__version__}",
        "trial": one.result.trial_id,
        "params": one.result.trial.params(),
        "sae": nan_to_null(one.report),
        "distilled_latents": list(one.places),
        "over_seeds": None if one.over_seeds is None else nan_to_null(one.over_seeds),
        "quality": None if one.quality is None else nan_to_null(one.quality),
        "stability": None if one.found is None else nan_to_null(_again(one, one.found)),
    }


def _again(one: PublishedSAE, found: Rediscovery) -> list[dict[str, Any]]:
    return [asdict(again) for again in found.again if again.setting == one.result.setting]


def _texts(one: PublishedSAE) -> dict[str, str]:
    shown = one.experiment.model_dump(mode="json", exclude=_PRIVATE)
    assert one.result.folder is not None, "it was loaded from a folder"
    summary = (one.result.folder / SUMMARY_FILE).read_text(encoding="utf-8")
    return {
        EXPERIMENT: yaml.safe_dump(shown, sort_keys=False),
        SUMMARY_FILE: summary,
        CARD: model_card(one),
    }


def _write(path: Path, content: str | bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
