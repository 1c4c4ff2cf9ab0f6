"""Where an SAE's files and the activations that it was trained on are, and what can be said if they are gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from dmsae_ray.config import ActivationSettings
from dmsae_ray.distill import OPTIONAL_SCORING, scores_file, scores_from_bytes
from dmsae_ray.errors import DataError, one_line
from dmsae_ray.files import Folder, decode_record, on_this_machine
from dmsae_ray.sae import MatryoshkaSAE, about_sae, load_sae
from dmsae_ray.store import ACTIVATIONS, REQUEST, TOKENS, Store, find_key, read_layout, shard_name, store_keys

if TYPE_CHECKING:
    from torch import Tensor

SCORES, OUTCOME = "tensors.safetensors", "outcome.json"
"""What is beside an SAE in the folder of its cycle, see `distill.DirectoryCycleStore`."""


@dataclass(frozen=True, eq=False)
class CycleScores:
    """What was measured of a trained SAE on the attribution set.

    Attributes:
        shares: float64 [pool], each latent's share of the summed score; 0 where all scores are 0.
        frequency: float64 [m], share of the tokens at which each latent fires.
        scoring: the settings of the scores.
    """

    shares: "Tensor"
    frequency: "Tensor"
    scoring: dict[str, Any]


@contextmanager
def opened_sae(folder: Folder) -> Iterator[tuple[MatryoshkaSAE, dict[str, Any]]]:
    """Yield the SAE in a folder or a bucket, and what is noted with it; its weights are there for this context only.

    Args:
        folder: the folder of sae.safetensors and config.json: <output>/cycles/<key>/sae.

    Raises:
        DataError: it is not there, or damaged.
    """
    with on_this_machine(folder, ("sae.safetensors", "config.json")) as here:
        yield load_sae(here), about_sae(here)


def read_scores(cycle: Folder, provenance: dict[str, Any] | None = None, number: int = 0) -> CycleScores | None:
    """Return the scores in the folder of a cycle; None if there are none.

    Args:
        cycle: the folder.
        provenance: that of a core that was selected by the scores: a stored cycle may be scored in several ways, and
            these are the ones asked for. None: the first.
        number: number of the cycle, which may have a part of its own of the attribution set.

    Raises:
        DataError: a file is damaged.
    """
    outcome = cycle.read(OUTCOME)
    if outcome is None or cycle.size(SCORES) is None:
        return None
    with on_this_machine(cycle, (SCORES,)) as here:
        try:
            tensors = load_file(here / SCORES)
            scores, frequency = tensors["scores"], tensors["frequency"]
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"{cycle / SCORES} is damaged: {one_line(error)}") from None
    scoring = decode_record(outcome, cycle / OUTCOME).get("scoring")
    scoring = scoring if isinstance(scoring, dict) else {}
    asked = scoring if provenance is None else _asked(scoring, provenance, number)
    if asked != scoring:
        content = cycle.read(scores_file(asked))
        if content is None:
            return None
        scores, scoring = scores_from_bytes(content, cycle / scores_file(asked)), asked
    shares = scores / scores.sum().clamp(min=1e-300)
    return CycleScores(shares, frequency, scoring)


def _asked(scoring: dict[str, Any], provenance: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the scoring of cycle `number` in the run that a core is of; see `CycleSettings.scoring`."""
    asked = {name: provenance.get(name, value) for name, value in scoring.items() if name not in OPTIONAL_SCORING}
    asked |= {name: provenance[name] for name in ("mask", "intersect") if name in provenance}
    if "part" in provenance:
        parts = provenance["part"][1]
        asked["part"] = [number % parts, parts]
    return asked


def cycle_of(sae: Folder) -> Folder:
    """Return the folder of the cycle of an SAE folder <output>/cycles/<key>/sae."""
    return _above(sae)


def output_of(sae: Folder) -> Folder:
    """Return the output folder above an SAE folder <output>/cycles/<key>/sae."""
    return _above(_above(_above(sae)))


def find_store(output: Folder, about: dict[str, Any], d_model: int, given: str | None = None) -> Store:
    """Return the store whose activations an SAE was trained on, with its held-out shards.

    Args:
        output: the output folder of the SAE.
        about: what is noted with the SAE.
        d_model: width of the SAE.
        given: a store that a person has named: its folder, or its key (or how that begins) in `output`.

    Raises:
        ConfigError: `given` names no store.
        DataError: the store is gone, several fit, or it has other activations than the SAE takes.
    """
    stores = output / "stores"
    if given is not None:
        folder = Folder(given) if (Folder(given) / TOKENS).entries() else stores / find_key(stores, given)
    elif isinstance(about.get("store"), str) and (stores / about["store"] / TOKENS).entries():
        folder = stores / about["store"]
    else:
        fitting = [key for key in store_keys(stores) if _fits(stores / key, about, d_model)]
        if len(fitting) != 1:
            what = f"several stores of {stores} fit ({', '.join(fitting)})" if fitting else f"no store of {stores} fits"
            raise DataError(f"{what}; give the one with the SAE's activations by --store")
        folder = stores / fitting[0]
    layout = read_layout(folder)
    if layout is None:
        raise DataError(f"store {folder} has no whole tokens")
    if layout.d_model != d_model:
        raise DataError(f"store {folder} has activations of width {layout.d_model}; the SAE takes {d_model}")
    there = (folder / ACTIVATIONS).sizes()
    missing = [n for n in range(layout.shards("eval")) if f"{shard_name('eval', n)}.safetensors" not in there]
    if missing or layout.shards("eval") == 0:
        raise DataError(f"store {folder} has no held-out activations")
    return Store(folder, folder.uri.rstrip("/").rpartition("/")[2], ActivationSettings())


def _fits(store: Folder, about: dict[str, Any], d_model: int) -> bool:
    """Return whether what is noted with an SAE is what a store was made for."""
    try:
        request = decode_record(store.read(REQUEST) or b"", store / REQUEST)
        layout = read_layout(store)
    except DataError:
        return False
    if layout is None or layout.d_model != d_model:
        return False
    model, corpus, names = (request.get(part, {}) for part in ("model", "corpus", "read_from"))
    return (about.get("model"), about.get("layer"), about.get("context"), about.get("corpus")) == (
        names.get("model") or model.get("name"),
        model.get("layer"),
        layout.context,
        names.get("corpus") or corpus.get("path") or corpus.get("source"),
    )


def _above(folder: Folder) -> Folder:
    path, mark, options = folder.uri.partition("?") if "://" in folder.uri else (folder.uri, "", "")
    if "://" not in path:
        return Folder(str(Path(path).expanduser().absolute().parent))
    return Folder(path.rstrip("/").rpartition("/")[0] + mark + options)
