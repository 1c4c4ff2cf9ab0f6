"""Every score of one trained cycle, exact ablation included: a Ray task that holds the language model."""

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from dmsae_ray.config import parse_experiment
from dmsae_ray.errors import DataError
from dmsae_ray.files import be_patient

if TYPE_CHECKING:
    from torch import Tensor

    from dmsae_ray.distill import AttributionSet
    from dmsae_ray.sae import MatryoshkaSAE

ABLATION = "ablation"
"""Exact ablation at x: the latent is taken out of reconstruction plus error; expected over all next tokens."""
TEXT = "ablation, text"
"""The same, of the loss at the next tokens of the text."""
SPLICED = "ablation, spliced"
"""Exact ablation in the spliced reconstruction, without the SAE's error; expected over all next tokens."""
INTEGRATED = "integrated gradients"
"""What each latent adds to the expected loss on the path from none of the pool to all of it, at x.

It is computed over contexts that exact ablation does not see: over the same it would share the noise of its reference.
"""
ABLATIONS = (ABLATION, TEXT, SPLICED, INTEGRATED)
TRIMMED = 0.99
"""q of the trimmed mean that every SAE is scored by."""


@dataclass(frozen=True)
class ScoreTask:
    """What is scored, and how.

    Attributes:
        experiment: the experiment, as JSON.
        stores: place of the stores.
        store: key of the store.
        cycles: place of the cycles.
        key: key of the cycle.
        groups: groups of the candidate pool.
        quantiles: quantiles that are scores of their own.
        contexts: held-out contexts for the ablations, and as many others for integrated gradients.
        ablations: which of `ABLATIONS`, the scores that run the language model.
        masks: masks under which each score is computed, see `distill.pool_mask`.
        intersects: into how many equal parts the attribution set is cut for each score, which is then the lowest of
            theirs; 1 is the score of the whole.
        trimmed: quantiles of the trimmed means, each above 0.5 and a score of its own.
    """

    experiment: dict[str, Any]
    stores: str
    store: str
    cycles: str
    key: str
    groups: int
    quantiles: tuple[float, ...]
    contexts: int
    ablations: tuple[str, ...] = ABLATIONS
    masks: tuple[str, ...] = ("threshold",)
    intersects: tuple[int, ...] = (1,)
    trimmed: tuple[float, ...] = (TRIMMED,)


def score_name(score: str, q: float, mask: str = "threshold", parts: int = 1) -> str:
    """Return what a score is called: 'quantile 0.9', 'trimmed_mean' (of q = 0.99), 'trimmed_mean 0.8', 'mean'.

    Args:
        score: its name in `distill.SCORES`.
        q: the quantile; only two scores have one.
        mask: the mask under which it is computed.
        parts: of how many parts of the tokens it is the lowest.
    """
    if score == "random":
        return score  # it reads no activation
    if score == "quantile" or (score == "trimmed_mean" and q != TRIMMED):
        score = f"{score} {q:g}"
    masked = score if mask == "threshold" else f"{score} (BatchTopK)"
    return masked if parts == 1 else f"{masked}, least of {parts}"


def pool_scores_by_name(sae: "MatryoshkaSAE", pairs: "AttributionSet", task: ScoreTask) -> "dict[str, Tensor]":
    """Return the scores that need no language model, by `score_name`: float64 [3, pool], as of `score_cycle`.

    Args:
        sae: the SAE.
        pairs: the attribution set.
        task: what is scored, and how.
    """
    import torch

    from dmsae_ray.distill import SCORES, AttributionSet, cut, derive_seed, halves, pool_scores

    stretches: tuple[AttributionSet, ...] = (pairs, *halves(pairs))
    seeds = [derive_seed(sae.seed, "score", n) for n in range(3)]
    wanted = [*(("quantile", q) for q in task.quantiles), *(("trimmed_mean", q) for q in task.trimmed)]
    wanted += [(score, TRIMMED) for score in SCORES if score not in ("quantile", "trimmed_mean")]
    found: dict[str, Tensor] = {}
    for mask, parts, (score, q) in product(task.masks, task.intersects, wanted):
        if score == "random" and score in found:
            continue
        found[score_name(score, q, mask, parts)] = torch.stack(
            [
                torch.stack(
                    [
                        pool_scores(sae, part, q, score=score, groups=task.groups, mask=mask, seed=seed)
                        for part in (cut(stretch, parts) if parts > 1 else (stretch,))
                    ]
                ).amin(dim=0)
                for stretch, seed in zip(stretches, seeds, strict=True)
            ]
        )
    return found


def score_cycle(task: ScoreTask) -> "dict[str, Tensor]":
    """Return the scores of a cycle's pool: by name float64 [3, pool]: by all tokens, by the first half, by the second.

    Gradient scores are over the attribution set, ablations and integrated gradients over held-out contexts; the halves
    are halves of these. Integrated gradients are left out where the ablations take all contexts but one.

    Raises:
        DataError: the cycle or the store is gone, or has no held-out contexts.
    """
    import torch

    from dmsae_ray.evaluation import SplicedContexts, ablation, integrated_gradients
    from dmsae_ray.feed import Feed
    from dmsae_ray.store import open_store
    from dmsae_ray.sweep.kept_model import kept_tap
    from dmsae_ray.sweep.shared_cycles import cycle_store

    be_patient()
    experiment = parse_experiment(task.experiment)
    store = open_store(task.stores, experiment, task.store)
    trained = cycle_store(task.cycles).load(task.key)
    if trained is None:
        raise DataError(f"cycle {task.key} is not in {task.cycles}")
    tap = kept_tap(experiment.model.model_dump_json())
    sae, pairs = trained.sae.to(tap.device), Feed(store, experiment.recipe.batch_size, 0).attribution()
    found = pool_scores_by_name(sae, pairs, task)
    tokens, kept, mask = store.eval_tokens(), store.eval_kept(), store.eval_loss_mask()
    if len(tokens) < 2:
        raise DataError(f"store {store.folder}: two held-out contexts are needed for ablations")
    pool, batch = sae.pool_size(task.groups), max(1, experiment.resources.model_batch_tokens // tokens.shape[1])
    for name in task.ablations:
        first = task.contexts if name == INTEGRATED else 0
        last = min(first + task.contexts, len(tokens))
        if last - first < 2:
            continue
        losses, targets = [], []
        for part in (slice(first, (first + last) // 2), slice((first + last) // 2, last)):
            model = SplicedContexts(
                tap, tokens[part], keep=~kept[part], loss_mask=mask[part], expected=name != TEXT, batch=batch
            )
            if name == INTEGRATED:
                losses.append(integrated_gradients(model, sae, stop=pool))
            else:
                losses.append(ablation(model, sae, stop=pool, batch=batch, keep_error=name != SPLICED))
            targets.append(model.targets)
        whole = sum(one * count for one, count in zip(losses, targets, strict=True)) / max(1, sum(targets))
        found[name] = torch.stack([torch.as_tensor(whole), *losses])
    return found
