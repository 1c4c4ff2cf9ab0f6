"""The report of a sweep, made from what its trials found: the finding, tables, report.md, report.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rich.console import Group
from rich.text import Text

from dmsae_ray.errors import DataError
from dmsae_ray.files import nan_to_null, replacing
from dmsae_ray.plan import CycleSetting, Setting, TransferSetting
from dmsae_ray.report.aggregate import Aggregate, aggregate, counted
from dmsae_ray.report.axis_effects import axis_table
from dmsae_ray.report.chains import chain_names, chain_table
from dmsae_ray.report.finding import cycles_finding, transfers_finding
from dmsae_ray.report.other_scores import Measured, ablation_overlaps, other_scores_table
from dmsae_ray.report.picture import Drawn
from dmsae_ray.report.running import planned_trials, unfinished_trials
from dmsae_ray.report.tables import (
    Table,
    cores_table,
    cost_table,
    cycles_table,
    margin_table,
    running_table,
    transfer_table,
    use_table,
)
from dmsae_ray.results import TrialResult, by_setting, load_results

REPORT_FILE = "report.md"
JSON_FILE = "report.json"

NOTES = """\
**n** is the number of seeds behind the numbers of a row: those that are finished and did not collapse. A number is
their mean, with its 95% interval in brackets from three seeds on (Student's t; of a share on the logit scale). Two
seeds are given in parentheses, one alone. **Carryover** is the share of the core that was selected again in the last
cycle; **came back** counts these latents over the seeds. **Retest** is the noise of the score: the overlap of what the
two halves of the attribution tokens select from one and the same SAE, at the same coverage (shared latents over the
mean size). Where carryover is no lower, other tokens alone may change as much of a selection as another cycle does;
each half has half of the tokens, so two whole sets would agree better than that. **Chance** is the carryover of a core
drawn at random from the candidate pool; a **control**'s column is the carryover of a core of as many rows with the
same norms, trained in its place, and **carryover over** it is the difference, seed by seed. **Distilled** counts the
latents selected in every cycle. **As mean square** and **as ablation** are the overlaps of the last selection with as
many latents that these scores name first; **among the best of C_0** is that of the distilled core, as far as it is a
part of C_0, with as many of C_0 that scored best in cycle 0, beside the chance of as many drawn from C_0. **Left** is
the share of cycle 0's core, or of a control that ran through all cycles in its place, that every cycle selected,
beside the chance that random selections of the same sizes leave it. **L0** is measured, on held-out tokens: all
latents that fire at a token, those of the core included, and of the **core** alone. **Core fires** is the share of
tokens at which a latent of the core fires, the median and the most frequent one; **dead** is the share of latents that
never fire. **FVU** is the fraction of variance unexplained, **loss rec.** the share of the language model's loss that
the SAE keeps against zeroing the layer. **PW-MCC** is the mean cosine of the best one-to-one matching of two seeds'
distilled cores, over all pairs [lowest, highest]. Rows that both have by construction, from one given SAE or core, are
left out and counted; where nothing is left the cores are not comparable. Its **chance** is that of random subsets of
the same sizes of the candidate pools, with the middle 95% of the draws.
"""

CAVEAT = (
    "The rows of a core are copied from cycle to cycle. Carryover says that a latent stays useful, not that another "
    "training finds it again."
)


@dataclass(frozen=True)
class Report:
    """What a sweep found, by setting, and the tables that show it.

    Attributes:
        name: Name of the sweep folder.
        results: The finished trials.
        cycles: Settings of cycles, each over its seeds.
        transfers: Settings of transfers, each over its seeds.
        running: Trials that are not finished, with the cycles that are.
        planned: Number of trials that the sweep's config asks for; None where it is not known.
        last_cycle: Number of the last cycle that the config asks for; None where it is not known.
        replicas: The trials behind the numbers of each setting, see `Aggregate`.
        settings: The config by dotted names; None where it is not known.
        output: Its `output`, a path or URI; None where it is not known.
        axes: Values of the further axes, by their dotted names, in the order of the config.
        by_ablation: How selections agree with exact ablation, where `dmsae score` measured it.
    """

    name: str
    results: tuple[TrialResult, ...]
    cycles: tuple[Aggregate[CycleSetting], ...]
    transfers: tuple[Aggregate[TransferSetting], ...]
    running: tuple[TrialResult, ...] = ()
    planned: int | None = None
    last_cycle: int | None = None
    replicas: Mapping[Setting, Sequence[TrialResult]] = field(default_factory=dict)
    settings: Mapping[str, object] | None = None
    output: str | None = None
    axes: Mapping[str, Sequence[object]] = field(default_factory=dict)
    by_ablation: Measured = field(default_factory=dict)

    def finding(self) -> str:
        """Return what the sweep found, with its figures: one or a few plain sentences."""
        parts = [cycles_finding(self.cycles, self.last_cycle)] if self.cycles else []
        parts += [transfers_finding(self.transfers)] if self.transfers else []
        return " ".join(parts)

    def numbers(self) -> dict[str, float]:
        """Return means and intervals by setting, for a tracker: '<setting>/carryover', '<setting>/carryover_low'."""
        found: dict[str, float] = {}
        every: list[Aggregate[Setting]] = [*self.cycles, *self.transfers]
        for one in every:
            known = {name: one.metrics[name] for name in ("l0", "fvu", "loss_recovered")}
            if isinstance(one.setting, CycleSetting):
                known = {"carryover": one.carryover, "distilled_size": one.distilled_size, **known}
                known |= {f"margin_{name}": margin for name, margin in one.margins.items()}
            for name, value in known.items():
                if value.n:
                    found[f"{one.setting.trial_name}/{name}"] = value.mean
                for end, bound in (("low", value.low), ("high", value.high)):
                    if bound is not None:
                        found[f"{one.setting.trial_name}/{name}_{end}"] = bound
        return found

    @property
    def progress(self) -> str:
        """How many trials are finished, and how many have finished cycles."""
        done = len(self.results)
        of = f" of {self.planned}" if self.planned is not None and self.planned >= done else ""
        noun = "trial is" if done == 1 and not of else "trials are"
        stopped = sum(trial.stopped is not None for trial in self.running)
        rest = f", {len(self.running) - stopped} more with finished cycles" if len(self.running) > stopped else ""
        # Whoever reads a mean must know that its seeds were chosen by what they reported.
        rest += (
            f", {stopped} were stopped early by what they reported: what is left is no random sample" if stopped else ""
        )
        return f"{done}{of} {noun} finished{rest}"

    @property
    def remarks(self) -> str:
        """What stands below the finding: how far the sweep is, and what carryover does not say."""
        return f"{self.progress}.{f' {CAVEAT}' if self.cycles else ''}"

    @property
    def tables(self) -> list[Table]:
        """The tables, the most important first."""
        tables: list[Table] = []
        if self.cycles:
            tables += [*self._cycle_tables(), self.other_scores, cycles_table(self.cycles, self.last_cycle)]
        if self.transfers:
            tables += self._transfer_tables()
        if self.running:
            tables.append(running_table(self.running, self.last_cycle))
        tables.append(cost_table((*self.cycles, *self.transfers), self.last_cycle))
        return tables

    @property
    def other_scores(self) -> Table:
        """The table of what other scores say; it is not on the terminal, where there are enough."""
        return other_scores_table(self.cycles, self.replicas, self.by_ablation, self.last_cycle)

    @property
    def axis_changes(self) -> list[Table]:
        """The table of what further axes change; none without any."""
        changed = axis_table(self.cycles or self.transfers, self.replicas, self.axes)
        return [changed] if changed.rows else []

    @property
    def chains(self) -> list[Table]:
        """The table of controls that ran through all cycles; none without any."""
        any_chain = bool(chain_names(self.replicas))
        return [chain_table(self.cycles, self.replicas, self.last_cycle)] if any_chain else []

    @property
    def health(self) -> list[str]:
        """One line for each trial that collapsed, each control that is missing, and each trouble in a training."""
        lines = [f"{r.trial_id} collapsed: {r.collapse}" for r in (*self.results, *self.running) if r.collapse]
        for setting, found in self.replicas.items():
            shared: dict[str, list[int]] = {}
            for r in found if isinstance(setting, CycleSetting) else ():
                shared.setdefault(r.reports[0].key or r.trial_id, []).append(r.trial.seed)
            lines += [
                f"{setting.label}: seeds {', '.join(map(str, seeds))} share cycle 0: their cores are choices from one "
                "SAE, and their spread is not that of trainings"
                for seeds in shared.values()
                if len(seeds) > 1
            ]
        lines += [
            f"{r.trial_id}: control {c.arm} collapsed in cycle {c.cycle}: {c.collapsed}"
            for r in self.results
            for c in r.beside
            if c.collapsed
        ]
        lines += [f"{r.trial_id}: no control {arm}: {why}" for r in self.results for arm, why in r.left_out.items()]
        for r in self.results:
            for record in (*r.reports, *r.beside):
                where = f"{r.trial_id}, cycle {record.cycle}, {record.arm}"
                lines += [f"{where}: {trouble} at step {step}" for trouble, step in record.troubles.items()]
        return lines

    def rich(self) -> Group:
        """Return the finding, the main tables and what went wrong, for the terminal."""
        tables = self._cycle_tables()
        tables += self._transfer_tables() if self.transfers else []
        tables += [running_table(self.running, self.last_cycle)] if self.running else []
        note = "n seeds; in brackets 95% intervals, or two seeds; compare carryover with retest, chance and control"
        lines = [*(Text(line) for line in self.health), Text(self.finding())]
        return Group(*(t.rich() for t in tables), Text(note, style="dim"), *lines)

    def markdown(self, pictures: Sequence[Drawn], folder: Path) -> str:
        """Return the whole report as Markdown; pictures are linked relative to `folder`."""
        parts = [f"# {escape(self.name)}\n", f"{self.finding()}\n", f"{self.remarks}\n", NOTES]
        parts += [table.markdown() for table in self.tables]
        if self.health:
            parts.append("## Health\n\n" + "\n".join(f"- {line}" for line in self.health) + "\n")
        for drawn in pictures:
            address = drawn.png.relative_to(folder).as_posix()
            parts.append(f"## {drawn.picture.title}\n\n![{drawn.picture.title}]({address})\n\n{drawn.caption}\n")
        return "\n".join(parts)

    def _cycle_tables(self) -> list[Table]:
        tables = []
        if self.cycles:
            tables += [cores_table(self.cycles, self.last_cycle), use_table(self.cycles, self.last_cycle)]
            tables.append(margin_table(self.cycles, self.last_cycle))
            tables += self.chains
            tables += self.axis_changes
        return tables

    def _transfer_tables(self) -> list[Table]:
        return [transfer_table(self.transfers), *self.axis_changes]


def make_report(sweep_dir: str | Path) -> Report:
    """Make the report of a sweep folder: of its finished trials, and of the finished cycles of those that run.

    Raises:
        DataError: Nothing is finished, or a summary or the journal cannot be read.
    """
    finished = load_results(sweep_dir)
    planned = planned_trials(sweep_dir)
    running = unfinished_trials(sweep_dir, planned, [r.trial_id for r in finished])
    if not finished and not running:
        raise DataError(
            f"'{sweep_dir}' has no finished trial and no finished cycle; run the sweep, or give another sweep folder"
        )
    done, begun = by_setting(finished), by_setting(running)
    settings = sorted({*done, *begun}, key=lambda setting: setting.order)
    cycles = [s for s in settings if isinstance(s, CycleSetting)]
    transfers = [s for s in settings if isinstance(s, TransferSetting)]
    return Report(
        name=Path(sweep_dir).absolute().name,
        results=tuple(finished),
        cycles=tuple(aggregate(s, done.get(s, []), begun.get(s, [])) for s in cycles),
        transfers=tuple(aggregate(s, done.get(s, []), begun.get(s, [])) for s in transfers),
        running=tuple(running),
        planned=None if planned is None else len(planned.trials),
        last_cycle=None if planned is None else planned.last_cycle,
        replicas={s: counted(done.get(s, []), begun.get(s, [])) for s in settings},
        settings=None if planned is None else planned.experiment.shared_settings(),
        output=None if planned is None else planned.experiment.output,
        by_ablation=ablation_overlaps(sweep_dir),
        axes={} if planned is None else planned.experiment.sweep.axes,
    )


def write_report(report: Report, sweep_dir: str | Path, pictures: Sequence[Drawn]) -> list[Path]:
    """Write report.md and report.json into the sweep folder; return their paths."""
    folder = Path(sweep_dir).absolute()
    text, data = folder / REPORT_FILE, folder / JSON_FILE
    tree = {
        "sweep": report.name,
        "finding": report.finding(),
        "cycles": nan_to_null(report.cycles),
        "transfers": nan_to_null(report.transfers),
    }
    for path, content in (
        (text, report.markdown(pictures, folder)),
        (data, json.dumps(tree, indent=1, allow_nan=False)),
    ):
        with replacing(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [text, data]
