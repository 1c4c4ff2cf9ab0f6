"""A plan as text for a person to read before paying."""

from collections import Counter
from collections.abc import Sequence

from dmsae_ray.plan.bill import Bill, bill, usage
from dmsae_ray.plan.capacity import Cluster
from dmsae_ray.plan.plan import Plan
from dmsae_ray.plan.schedule import Schedule, schedule_on
from dmsae_ray.plan.trials import Trial, times_the_tokens
from dmsae_ray.plan.words import bundles_text, bytes_text, count_text, hours_text, many, totals_text


def plan_text(plan: Plan, cluster: Cluster | None = None) -> str:
    """Return the plan as several lines for a person to read before paying.

    Args:
        plan: The plan.
        cluster: The cluster that it is meant for, which can hold it (`fit.check_fits`). Without one, as many trials run
            together as the experiment allows, and dollars are not said.
    """
    flops, storage, hours_of = plan.flops, plan.storage, schedule_on(plan, cluster)
    saved = plan.trainings_unshared - plan.trainings
    parts = {"harvest": flops.harvest, "training": flops.training, "evaluation": flops.evaluation}
    how = "harvested once"
    if flops.streaming:
        parts["streaming"], how = flops.streaming, "streamed to every training"
    spent = ", ".join(f"{name} {count:.2g}" for name, count in parts.items())
    hours = ", ".join(f"{name} {hours_text(f / plan.rate.flops_per_second / 3600)}" for name, f in parts.items())
    tokens = f"{count_text(plan.corpus_tokens)} {how}, {count_text(plan.attribution_tokens)} with gradients"
    training = f"{count_text(plan.steps * plan.batch_size)} a training ({plan.steps} steps of {plan.batch_size})"
    kind = "baseline" if plan.trials[0].cycle_0 is None else "trial"
    for budget, count in sorted(Counter(trial.budget for trial in plan.trials if trial.budget != 1).items()):
        training += f", {times_the_tokens(budget)} in {many(count, kind)}"
    lines = [
        f"{plan.name}: {'; '.join(f'{m}, residual stream after block {layer}' for m, layer in plan.taps)}",
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
        f"  at once     at most {many(hours_of.at_once, 'trial')}, with {totals_text(plan.needs(hours_of.at_once))}",
        *([f"  overlap     {_overlap(plan)}"] if plan.pool_needs else []),
        *_hours(plan, hours_of),
        *([] if cluster is None else [f"  dollars     {_dollars(bill(plan, hours_of, cluster))}"]),
        *(f"  note        {note}" for note in plan.notes),
    ]
    return "\n".join(lines)


def _hours(plan: Plan, schedule: Schedule) -> list[str]:
    one, used = plan.training, usage(plan, schedule)
    needs = f"each needs {one.bytes_per_second / 1e6:.3g} MB/s; assumed: {one.source}"
    if one.limited_by_reading:
        limit = f"its rows limit it; its workers would take {hours_text(one.computing)}, {needs}"
    else:
        limit = f"its workers limit it; {needs}"
    return [
        f"  training    {hours_text(one.hours)}: {limit}",
        f"  hours       {hours_text(schedule.total)} by the clock: harvest {hours_text(schedule.harvest)}, "
        f"trials {hours_text(schedule.service)}, {schedule.at_once} at once",
        f"  {plan.rate.unit.replace('CPU core', 'core')}-hours".ljust(14)
        + f"{used.total:.3g} held: workers {used.workers:.3g}, language model {used.service:.3g}, "
        f"harvest {used.harvest:.3g}",
    ]


def _dollars(bill: Bill) -> str:
    nodes = ", ".join(f"{name} {hours:.3g} node hours" for name, hours in bill.hours.items())
    if bill.dollars is None:
        return f"not known, for want of a price of {', '.join(bill.unpriced)}: {nodes}"
    return f"{bill.dollars:,.0f}: {nodes}"


def _overlap(plan: Plan) -> str:
    return f"trials begin while the harvest goes on, where there are {totals_text(plan.beside_harvest(1))}; else after"


def _names(trials: Sequence[Trial], shown: int = 4) -> str:
    names = [trial.trial_id for trial in trials]
    return ", ".join(names if len(names) <= shown + 1 else [*names[: shown - 1], "...", names[-1]])
