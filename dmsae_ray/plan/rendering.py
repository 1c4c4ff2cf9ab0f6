"""A plan as text for a person to read before paying."""

from collections.abc import Sequence

from dmsae_ray.plan.plan import Plan
from dmsae_ray.plan.trials import Trial
from dmsae_ray.plan.words import bundles_text, bytes_text, count_text, hours_text, many, totals_text


def plan_text(plan: Plan) -> str:
    """Return the plan as several lines for a person to read before paying."""
    flops, storage = plan.flops, plan.storage
    saved = plan.trainings_unshared - plan.trainings
    parts = {"harvest": flops.harvest, "training": flops.training, "evaluation": flops.evaluation}
    how = "harvested once"
    if flops.streaming:
        parts["streaming"], how = flops.streaming, "streamed to every training"
    spent = ", ".join(f"{name} {count:.2g}" for name, count in parts.items())
    hours = ", ".join(f"{name} {hours_text(f / plan.rate.flops_per_second / 3600)}" for name, f in parts.items())
    tokens = f"{count_text(plan.corpus_tokens)} {how}, {count_text(plan.attribution_tokens)} with gradients"
    training = f"{count_text(plan.steps * plan.batch_size)} a training ({plan.steps} steps of {plan.batch_size})"
    lines = [
        f"{plan.name}: {plan.model}, residual stream after block {plan.layer}",
        f"  trials      {len(plan.trials)}: {_names(plan.trials)}",
        f"  trainings   {plan.trainings}, of them {plan.controls} of controls; "
        f"sharing cycle 0 saves {saved} of {plan.trainings_unshared}",
        f"  tokens      {tokens}, {count_text(plan.eval_tokens)} for evaluation;",
        f"              {training}, {count_text(plan.training_tokens)} in all",
        f"  FLOP        {flops.total:.3g}: {spent}",
        f"  time        {hours_text(plan.unit_hours)} of one {plan.rate.unit} ({hours}),",
        f"              assuming {plan.rate.flops_per_second:.2g} FLOP/s: {plan.rate.source}",
        f"  storage     {bytes_text(storage.total)}: activations {bytes_text(storage.activations)}, "
        f"cycles {bytes_text(storage.cycles)}, checkpoints {bytes_text(storage.checkpoints)}",
        f"  harvest     needs at once {bundles_text(plan.harvest_needs)}",
        f"  one trial   needs at once {bundles_text(plan.needs(1))}",
        f"  at once     at most {many(plan.at_once, 'trial')}, with {totals_text(plan.needs(plan.at_once))}",
        *([f"  overlap     {_overlap(plan)}"] if plan.pool_needs else []),
        *(f"  note        {note}" for note in plan.notes),
    ]
    return "\n".join(lines)


def _overlap(plan: Plan) -> str:
    return f"trials begin while the harvest goes on, where there are {totals_text(plan.beside_harvest(1))}; else after"


def _names(trials: Sequence[Trial], shown: int = 4) -> str:
    names = [trial.trial_id for trial in trials]
    return ", ".join(names if len(names) <= shown + 1 else [*names[: shown - 1], "...", names[-1]])
