"""How good one trained SAE is, by all of our own measures: a Ray task that holds the language model."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dmsae_ray.config import parse_experiment
from dmsae_ray.errors import DataError
from dmsae_ray.files import be_patient

if TYPE_CHECKING:
    from torch import Tensor

    from dmsae_ray.evaluation import FirstLetter, LetterProbes, LossRecovered, Nearness, WordSample
    from dmsae_ray.lm import Tap
    from dmsae_ray.sae import MatryoshkaSAE
    from dmsae_ray.store import Store

QUALITY_VERSION = 1
"""Increased whenever a number of `measure_quality` changes, so that an older one is not taken for a new one."""
_BATCH = 8192


@dataclass(frozen=True)
class QualityTask:
    """What is measured.

    Attributes:
        experiment: the experiment, as JSON.
        stores: place of the stores.
        store: key of the store.
        cycles: place of the cycles.
        key: key of the cycle.
    """

    experiment: dict[str, Any]
    stores: str
    store: str
    cycles: str
    key: str


def measure_quality(task: QualityTask) -> dict[str, Any]:
    """Measure the SAE of a cycle on the held-out tokens of a store.

    Returns:
        What JSON can hold: by the names of `evaluation.QUALITY` a number each, None where there is none (a core that is
        not there, a letter that cannot be judged). And

        - prefix_sizes, prefix_fvu, prefix_l0: a list each, over the prefixes;
        - frequency_edges, in log10, and frequency_histogram, core_frequency_histogram, rest_frequency_histogram:
          latents in each bin (`evaluation.FREQUENCY_EDGES`); dead latents are in none;
        - first_letter_by_letter: a list with the fields of `evaluation.LetterAbsorption`; first_letter_reason: why no
          letter was judged, or None.

    Raises:
        DataError: the cycle or the store is gone, or has no held-out tokens.
    """
    from dmsae_ray.sweep.shared_cycles import cycle_store

    be_patient()
    trained = cycle_store(task.cycles).load(task.key)
    if trained is None:
        raise DataError(f"cycle {task.key} is not in {task.cycles}")
    held_out = _held_out(json.dumps(task.experiment, sort_keys=True), task.stores, task.store)
    width = held_out.store.d_model
    if trained.sae.d_model != width:
        raise DataError(
            f"the SAE is for activations of width {trained.sae.d_model}; {held_out.store.folder} has {width}"
        )
    sae = trained.sae.to(held_out.tap.device)
    found = {
        **_reconstruction(sae, held_out.store),
        **_loss(held_out.loss(sae)),
        **_first_letter(held_out.first_letter(sae)),
    }
    return {name: _plain(value) for name, value in found.items()}


class _HeldOut:
    """The held-out text of a store, and what of it does not depend on the SAE: a process measures that once."""

    def __init__(self, experiment: dict[str, Any], stores: str, key: str) -> None:
        from dmsae_ray.store import open_store
        from dmsae_ray.sweep.kept_model import kept_tap

        parsed = parse_experiment(experiment)
        self.store: Store = open_store(stores, parsed, key)
        self.tap: Tap = kept_tap(parsed.model.model_dump_json())
        self._tokens, self._kept = self.store.eval_tokens(), self.store.eval_kept()
        if not bool(self._kept.any()):
            raise DataError(f"store {self.store.folder} has no held-out tokens")
        self._batch = max(1, parsed.resources.model_batch_tokens // self._tokens.shape[1])
        self._mean, self._targets = self.store.eval_mean().float(), self.store.eval_loss_mask()
        self._known: LossRecovered | None = None
        self._words: tuple[WordSample, Tensor, LetterProbes] | None = None

    def loss(self, sae: "MatryoshkaSAE") -> "LossRecovered":
        """Return the loss through the SAE, with the tokens and masks of `LanguageModel.loss_recovered`."""
        from dmsae_ray.evaluation import loss_recovered

        self._known = loss_recovered(
            self.tap,
            sae,
            self._tokens,
            batch_contexts=self._batch,
            keep_mask=~self._kept,
            loss_mask=self._targets,
            mean=self._mean,
            like=self._known,
            divergence=True,
        )
        return self._known

    def first_letter(self, sae: "MatryoshkaSAE") -> "FirstLetter":
        """Return the absorption of first letters."""
        from dmsae_ray.evaluation import first_letter_absorption, fit_letter_probes, sample_words
        from dmsae_ray.lm import TokenText

        if self._words is None:
            sample = sample_words(self._tokens, self._kept, TokenText(self.tap.tokenizer).one)
            x = self.store.eval_rows(sample.places).to(self.tap.device)
            self._words = sample, x, fit_letter_probes(x, sample)
        sample, x, probes = self._words
        return first_letter_absorption(sae, x, sample, probes)


@lru_cache(maxsize=1)
def _held_out(experiment: str, stores: str, key: str) -> _HeldOut:
    return _HeldOut(json.loads(experiment), stores, key)


def _reconstruction(sae: "MatryoshkaSAE", store: "Store") -> dict[str, Any]:
    from dmsae_ray.evaluation import FREQUENCY_EDGES, decoder_geometry, frequency_distribution, measure_prefixes
    from dmsae_ray.feed import Feed

    prefixes, c = measure_prefixes(sae, Feed(store, _BATCH, 0).evaluation()), sae.n_core
    l0_core = int(prefixes.fired[:c].sum()) / prefixes.tokens
    found: dict[str, Any] = {
        "tokens": prefixes.tokens,
        "fvu": prefixes.fvu[-1],
        "fvu_first_prefix": prefixes.fvu[0],
        "l0": prefixes.l0[-1],
        "l0_core": l0_core,
        "l0_non_core": prefixes.l0[-1] - l0_core,
        "l0_first_prefix": prefixes.l0[0],
        "prefix_sizes": list(prefixes.sizes),
        "prefix_fvu": list(prefixes.fvu),
        "prefix_l0": list(prefixes.l0),
        "frequency_edges": list(FREQUENCY_EDGES),
    }
    for name, part in (("", slice(None)), ("core_", slice(c)), ("rest_", slice(c, None))):
        frequency = frequency_distribution(prefixes.fired[part], prefixes.tokens)
        found |= {
            f"{name}dead_share": frequency.dead,
            f"{name}dense_share": frequency.dense,
            f"{name}live_frequency_median": frequency.median,
            f"{name}frequency_histogram": list(frequency.histogram),
        }
    near = decoder_geometry(sae.W_dec, c, prefixes.fired > 0)
    found |= {"nearest_cosine_median": None, "nearest_cosine_p95": None}
    if near.all is not None:
        found |= {"nearest_cosine_median": near.all.median, "nearest_cosine_p95": near.all.p95}
    for name, one in (("", near.all), ("core_", near.core), ("core_rest_", near.core_to_rest)):
        found |= _nearness(name, one)
    return found


def _nearness(name: str, near: "Nearness | None") -> dict[str, float | None]:
    return {
        f"{name}nearest_cosine": None if near is None else near.mean,
        f"{name}nearest_cosine_chance": None if near is None else near.chance,
        f"{name}redundant_07": None if near is None else near.at_least_07,
        f"{name}redundant_09": None if near is None else near.at_least_09,
    }


def _loss(found: "LossRecovered") -> dict[str, Any]:
    return {
        "targets": found.targets,
        "ce_clean": found.clean,
        "ce_sae": found.spliced,
        "ce_zero": found.zero,
        "ce_mean": found.mean,
        "loss_recovered": found.recovered,
        "loss_recovered_from_mean": found.recovered_from_mean,
        "kl": found.kl,
    }


def _first_letter(found: "FirstLetter") -> dict[str, Any]:
    return {
        "first_letter_letters": len(found.letters),
        "first_letter_absorption": found.absorbed,
        "first_letter_silent": found.silent,
        "first_letter_absorbed_when_silent": found.absorbed_when_silent,
        "first_letter_main_f1": found.main_f1,
        "first_letter_probe_f1": found.probe_f1,
        "first_letter_by_letter": [{**vars(one), "main": list(one.main)} for one in found.letters],
        "first_letter_reason": found.reason,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN is None, in lists too."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
