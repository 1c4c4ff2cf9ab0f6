"""One replica of the benchmark: a world, the cycles with a dense and with a sparse core, and their rivals."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dmsae_ray.distill import (
    SCORES,
    CycleRunner,
    DistillationResult,
    MemoryCycleStore,
    TrainedCycle,
    cut,
    derive_seed,
    empty_core,
    partners,
    pool_scores,
    rank_correlation,
    run_cycles,
    transfer,
)
from dmsae_ray.errors import ConfigError, DataError, DmsaeError
from dmsae_ray.evaluation import ablation, evaluate
from dmsae_ray.files import nan_to_null
from dmsae_ray.groundtruth.checked_world import check_world, raised
from dmsae_ray.groundtruth.latent_sets import (
    ABLATION,
    LOWEST,
    OWN,
    QUANTILES,
    REDISCOVERED,
    SAMPLED,
    SPLICED,
    latent_sets,
    latents_of,
)
from dmsae_ray.groundtruth.recovery import Latents, Truth
from dmsae_ray.groundtruth.regimes import Regime
from dmsae_ray.groundtruth.settings import BenchmarkSettings
from dmsae_ray.groundtruth.source import WorldSource
from dmsae_ray.groundtruth.world import World, importance
from dmsae_ray.sae import MatryoshkaSAE

Variant = Literal["dense", "sparse"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
Scorer = Callable[[MatryoshkaSAE, WorldSource], Tensor]
"""Returns a score >= 0 of every latent of an SAE [m]."""
PLAIN = ("collapsed", "in_first", "sizes")
"""Fields of a replica that hold no measured numbers."""


@dataclass(frozen=True)
class Replica:
    """What one replica found: plain numbers, JSON-serialisable.

    Attributes:
        regime: name of the regime.
        seed: seed of the replica.
        score: the score that selected the cores.
        seconds: time that it took.
        collapsed: by variant, None or why a cycle collapsed, with its number.
        in_first: by variant, whether every row of the distilled core is bit for bit one that cycle 0 selected.
        sizes: by variant, the sizes of C_0..C_L and, last, of the distilled core.
        arms: by variant and arm, what a set of latents recovers (`Recovery`).
        cores: by variant, for each cycle with a core: its size, size / d_model, purity of its decoder rows in the SAE
            that was trained around it, and the mean share of tokens at which its latents fire.
        scores: by name of a score, its rank correlation with the true importance over all latents of cycle 0
            ('dictionary') and over its pool, and the share of all importance that the best of its latents recover, as
            many as there are important features ('best').
        rediscovery: by arm, how its latents are found again by an SAE of another seed on other tokens.
        transfer: by arm, L0, FVU and loss recovered of fresh SAEs; empty where none were trained.
        world: fingerprint of the world; empty in files of a version that did not note it.
    """

    regime: str
    seed: int
    score: str
    seconds: float
    collapsed: dict[str, str | None]
    in_first: dict[str, bool]
    sizes: dict[str, list[int]]
    arms: dict[str, dict[str, dict[str, float]]]
    cores: dict[str, list[dict[str, float]]]
    scores: dict[str, dict[str, float]]
    rediscovery: dict[str, dict[str, float]]
    transfer: dict[str, dict[str, float]]
    world: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, with None for a number that does not exist, as JSON has no NaN."""
        return {name: value if name in PLAIN else nan_to_null(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> "Replica":
        """Return the replica of what `as_dict` returned.

        Raises:
            DataError: it is something else.
        """
        try:
            return cls(**{name: value if name in PLAIN else _null_to_nan(value) for name, value in tree.items()})
        except TypeError:
            raise DataError("groundtruth: a replica's file is not of this version; delete it to run it again") from None


def run_replica(
    regime: Regime, seed: int, settings: BenchmarkSettings, scorers: Mapping[str, Scorer] | None = None
) -> Replica:
    """Run one replica: train, score and select as on a language model, then compare with the truth.

    Args:
        regime: makes the world.
        seed: seed of the world, of the tokens and of the trainings.
        settings: the settings.
        scorers: scores of your own, by name; one of them may be `settings.score`.

    Raises:
        ConfigError: a setting cannot work, the world does not keep to `World`, or a scorer fails; the message names the
            regime and the seed.
        DataError: no feature matters.
    """
    try:
        return _Run(regime, seed, settings, dict(scorers or {})).replica()
    except (ConfigError, DataError) as error:
        raise type(error)(f"{regime.name}, seed {seed}: {error}") from error


class _Run:
    def __init__(self, regime: Regime, seed: int, settings: BenchmarkSettings, scorers: dict[str, Scorer]) -> None:
        self.regime, self.seed, self.settings, self.scorers = regime, seed, settings, scorers
        self.began = time.monotonic()
        world = check_world(made(regime, seed))
        self.source = WorldSource(world, settings.batch_size, settings.tokens, seed, keep=True)
        self.store = MemoryCycleStore()
        each = importance(world, settings.importance_tokens, derive_seed(seed, "importance"))
        # What matters to every loss: with one loss, its importance.
        self.truth = Truth(world.features, each.amin(dim=0), settings.decoder_cosine, settings.encoder_cosine)

    def replica(self) -> Replica:
        runs = {variant: self._cycles(variant) for variant in VARIANTS}
        first = self._trained(runs["dense"], 0)
        scores = self._scores(first) if first.collapsed is None else {}
        ranking = self._ranking(first, scores)
        arms: dict[str, dict[str, dict[str, float]]] = {}
        rediscovery: dict[str, dict[str, float]] = {}
        other = self._other() if scores else None
        for variant, run in runs.items():
            sets = self._sets(variant, run, first, scores)
            arms[variant] = {name: found for name, latents in sets.items() if (found := self._recovery(latents))}
            if other is not None:
                for name in REDISCOVERED:
                    again = _rediscovery(sets.get(name, []), other)
                    rediscovery |= {f"{variant} {name}": again} if again else {}
        fresh = self._transfer(runs) if self.regime.transfer else {}
        return Replica(
            regime=self.regime.name,
            seed=self.seed,
            score=self.settings.score,
            seconds=time.monotonic() - self.began,
            collapsed={
                v: None if r.collapse is None else f"cycle {r.collapsed_at}: {r.collapse}" for v, r in runs.items()
            },
            in_first={v: in_first(r) for v, r in runs.items()},
            sizes={v: [*(len(core) for core in r.cores), len(r.distilled)] for v, r in runs.items()},
            arms=arms,
            cores={v: self._cores(r) for v, r in runs.items()},
            scores=ranking,
            rediscovery=rediscovery,
            transfer=fresh,
            world=self.source.world.fingerprint,
        )

    def _runner(self, variant: Variant, *, source: WorldSource | None = None, k: int | None = None) -> CycleRunner:
        own = self.scorers.get(self.settings.score)
        source = source or self.source
        # With several losses cycle l is scored on the l-th, with which its part of the attribution set was made.
        settings = self.settings.cycle_settings(variant, attribution_parts=source.world.domains, k=k)
        groups = settings.pool_groups
        name = self.settings.score
        scorer = None if own is None else lambda sae: scored(name, own, sae, source)[: sae.pool_size(groups)]
        return CycleRunner(settings, source, store=self.store, scorer=scorer)

    def _cycles(self, variant: Variant) -> DistillationResult:
        return run_cycles(
            self._runner(variant), cycles=self.settings.cycles, coverage=self.settings.coverage, seed=self.seed
        )

    def _trained(self, run: DistillationResult, cycle: int) -> TrainedCycle:
        found = self.store.load(run.reports[cycle].key)
        assert found is not None, "the run has stored it"
        return found

    def _other(self) -> MatryoshkaSAE:
        """Return an SAE without a core of another seed, trained on other tokens of the same world."""
        seed = derive_seed(self.seed, "other")
        source = WorldSource(self.source.world, self.settings.batch_size, self.settings.tokens, seed)
        run = self._runner("dense", source=source).cycle(0, "other", empty_core(source.d_model), seed, 0)
        assert run.trained is not None, "there is one rank"
        return run.trained.sae

    def _scores(self, first: TrainedCycle) -> dict[str, Tensor]:
        """Return every score of every latent of cycle 0, as cycle 0 itself is scored: on the first loss."""
        sae, groups, domains = first.sae, len(first.sae.group_sizes), self.source.world.domains
        parts = cut(self.source.attribution(), domains)

        def by(name: str, q: float, part: int = 0) -> Tensor:
            return pool_scores(sae, parts[part], q, score=name, groups=groups, seed=derive_seed(self.seed, "score"))

        found = {f"quantile {q:g}": by("quantile", q) for q in QUANTILES}
        found |= {name: by(name, 1.0) for name in SCORES if name not in ("quantile", "trimmed_mean")}
        found[ABLATION] = ablation(self.source.model(0), sae, keep_error=True)
        found[SPLICED] = ablation(self.source.model(0), sae)
        found[SAMPLED] = ablation(self.source.model(0, sampled=True), sae, keep_error=True)
        for name, scorer in self.scorers.items():
            found[name] = scored(name, scorer, sae, self.source)
        own = self.settings.score
        if own not in self.scorers:
            q = self.settings.quantile
            found[OWN] = by(own, q)
            if domains > 1:
                found[LOWEST] = torch.stack([by(own, q, part) for part in range(domains)]).amin(dim=0)
        else:
            found[OWN] = found[own]
        return found

    def _ranking(self, first: TrainedCycle, scores: dict[str, Tensor]) -> dict[str, dict[str, float]]:
        """Return how well each score ranks the latents of cycle 0."""
        sae, best = first.sae, len(self.truth.important)
        truth, pool = self.truth.of_latents(sae.W_dec), sae.pool_size(self.settings.pool_groups)
        found = {}
        for name, s in scores.items():
            chosen = self.truth.recovery(latents_of(first, s.argsort(descending=True, stable=True)[:best]))
            found[name] = {
                "dictionary": rank_correlation(s, truth),
                "pool": rank_correlation(s[:pool], truth[:pool]),
                "best": chosen.importance if chosen is not None else float("nan"),
            }
        return found

    def _recovery(self, latents: "list[Latents]") -> dict[str, float]:
        """Return what a set recovers, as the mean over its draws; {} for a set without latents."""
        found = [r.as_dict() for one in latents if (r := self.truth.recovery(one)) is not None]
        return _mean(found)

    def _sets(
        self, variant: Variant, run: DistillationResult, first: TrainedCycle, scores: dict[str, Tensor]
    ) -> dict[str, list[Latents]]:
        if run.collapse is not None or not scores:
            return {}
        groups, seed = self.settings.pool_groups, derive_seed(self.seed, "draws", variant)
        last = self._trained(run, len(run.reports) - 1)
        return latent_sets(run, first, last, scores, self.truth, groups=groups, draws=self.settings.draws, seed=seed)

    def _cores(self, run: DistillationResult) -> list[dict[str, float]]:
        found = []
        for report in run.reports[1:]:
            trained = self._trained(run, report.cycle)
            inside = torch.arange(report.n_core_in)
            recovery = self._recovery([latents_of(trained, inside)])
            if recovery and trained.health.collapsed is None:
                share = report.n_core_in / self.source.d_model
                found.append({"cycle": report.cycle, "share_of_width": share, **recovery})
        return found

    def _transfer(self, runs: dict[Variant, DistillationResult]) -> dict[str, dict[str, float]]:
        """Return how good fresh SAEs are around the distilled core of the dense run, and without one."""
        core, seed = runs["dense"].distilled, derive_seed(self.seed, "transfer")
        if runs["dense"].collapse is not None or len(core) == 0:
            return {}
        found, none = {}, empty_core(self.source.d_model)

        def measure(name: str, variant: Variant, around: Any, k: int | None = None) -> None:
            done = transfer(self._runner(variant, k=k), around, seed=seed, arm=name)
            if done.trained is not None and done.report.collapsed is None:
                found[name] = self._quality(done.trained.sae)

        measure("baseline", "dense", none)
        measure("sparse core", "sparse", core)
        measure("dense core", "dense", core)
        if "dense core" in found:
            measure("baseline at the dense core's L0", "dense", none, max(1, round(found["dense core"]["l0"])))
        return found

    def _quality(self, sae: MatryoshkaSAE) -> dict[str, float]:
        metrics = evaluate(sae, self.source.evaluation())
        model = self.source.model(0)
        clean, spliced, zero = model.loss(model.x), model.loss(sae(model.x)), model.loss(torch.zeros_like(model.x))
        recovered = (zero - spliced) / (zero - clean) if zero != clean else math.nan
        return {"l0": metrics.l0, "fvu": metrics.fvu, "loss_recovered": recovered}


def made(regime: Regime, seed: int) -> World:
    """Return the world of a seed.

    Raises:
        ConfigError: the regime's function raises.
    """
    try:
        return regime.make(seed)
    except DmsaeError:
        raise
    except Exception as error:  # the code of a user
        raise ConfigError(f"world: {raised(error)}") from error


def scored(name: str, scorer: Scorer, sae: MatryoshkaSAE, source: WorldSource) -> Tensor:
    """Return what a scorer says of every latent: float64 [m].

    Raises:
        ConfigError: it raises, or does not say one real number of each.
    """
    try:
        scores = torch.as_tensor(scorer(sae, source))
    except Exception as error:  # the code of a user
        raise ConfigError(f"scorer '{name}': {raised(error)}") from error
    if scores.shape != (sae.n_latents,):
        raise ConfigError(
            f"scorer '{name}': its scores have shape {tuple(scores.shape)}; one a latent are needed, ({sae.n_latents},)"
        )
    if scores.is_complex():
        raise ConfigError(f"scorer '{name}': its scores are complex numbers; they must be real")
    wide = scores.detach().double().cpu()
    bad = ~(torch.isfinite(wide) & (wide >= 0))
    if bool(bad.any()):
        latent = int(bad.nonzero()[0])
        score = float(wide[latent])
        raise ConfigError(f"scorer '{name}': latent {latent} has score {score}; scores must be finite and >= 0")
    return wide


def in_first(run: DistillationResult) -> bool:
    """Return whether every row of the distilled core is, bit for bit, one that cycle 0 selected."""
    if not run.cores:
        return True
    rows = {row.numpy().tobytes() for row in run.cores[0].rows}
    return all(row.numpy().tobytes() in rows for row in run.distilled.rows)


def _rediscovery(sets: list[Latents], other: MatryoshkaSAE) -> dict[str, float]:
    """Return how well an SAE finds latents again: mean best cosine one to one, shares at 0.7 and at 0.9."""
    found = []
    for latents in sets:
        one: dict[str, float] = {}
        for name, rows, theirs in (
            ("encoder", latents.encoder, other.W_enc),
            ("decoder", latents.decoder, other.W_dec),
        ):
            cosine = partners(rows, theirs.detach())
            if len(cosine):
                one[f"{name}_mean"] = float(cosine.mean())
                one |= {f"{name}_{limit}": float((cosine >= limit).double().mean()) for limit in (0.7, 0.9)}
        found += [one] if one else []
    return _mean(found)


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    if not found:
        return {}
    return {name: math.fsum(one[name] for one in found) / len(found) for name in found[0]}


def _null_to_nan(tree: Any) -> Any:
    """Return the tree with NaN for each None."""
    if isinstance(tree, dict):
        return {name: _null_to_nan(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_null_to_nan(value) for value in tree]
    return math.nan if tree is None else tree
