"""The report of a sweep, made from the summaries of its trials: tables for the terminal, report.md, report.json."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.text import Text

from dmsae_ray.errors import DataError
from dmsae_ray.files import nan_to_null
from dmsae_ray.plan import CycleSetting, TransferSetting
from dmsae_ray.report.aggregate import Aggregate, aggregate
from dmsae_ray.report.tables import Table, cost_table, cycles_table, main_table, margin_table, transfer_table
from dmsae_ray.results import TrialResult, by_setting, load_results

REPORT_FILE = "report.md"
JSON_FILE = "report.json"

NOTES = """\
**n** seeds; ± is the half width of the 95% t-interval over them; one seed has none. **Carryover** is the share of the
core that was selected again in the last cycle; **chance** is that of a core drawn at random from the candidate pool; a
**control**'s column is the carryover of a core of as many rows with the same norms, trained in its place, and
**carryover over** it is the difference, seed by seed. **Distilled** counts the latents selected in every cycle. **L0**
is measured, on held-out tokens, in its two parts. **FVU** is the fraction of variance unexplained, **loss rec.** the
share of the language model's loss that the SAE keeps against zeroing the layer. **PW-MCC** is the mean |cosine| of the
best one-to-one matching of two seeds' distilled cores, over all pairs [lowest, highest]; its **chance** is that of
random directions.
"""


@dataclass(frozen=True)
class Report:
    """What a sweep found, by setting, and the tables that show it.

    Attributes:
        name: Name of the sweep folder.
        results: The finished trials.
        cycles: Settings of cycles, each over its seeds.
        transfers: Settings of transfers, each over its seeds.
    """

    name: str
    results: tuple[TrialResult, ...]
    cycles: tuple[Aggregate[CycleSetting], ...]
    transfers: tuple[Aggregate[TransferSetting], ...]

    @property
    def tables(self) -> list[Table]:
        """The tables, the most important first."""
        tables: list[Table] = []
        if self.cycles:
            tables += [main_table(self.cycles), margin_table(self.cycles), cycles_table(self.cycles)]
        if self.transfers:
            tables.append(transfer_table(self.transfers))
        tables.append(cost_table((*self.cycles, *self.transfers)))
        return tables

    @property
    def health(self) -> list[str]:
        """One line for each trial that collapsed, and one for each trouble in a training."""
        lines = [f"{r.trial_id} collapsed: {r.collapse}" for r in self.results if r.collapse]
        for r in self.results:
            for record in (*r.reports, *r.controls.values()):
                where = f"{r.trial_id}, cycle {record.cycle}, {record.arm}"
                lines += [f"{where}: {trouble} at step {step}" for trouble, step in record.troubles.items()]
        return lines

    def rich(self) -> Group:
        """Return the main tables and what went wrong, for the terminal."""
        main = [main_table(self.cycles), margin_table(self.cycles)] if self.cycles else []
        main += [transfer_table(self.transfers)] if self.transfers else []
        note = "n seeds, ± 95% interval; chance and control are carryovers to compare with; core sizes are means"
        return Group(*(t.rich() for t in main), Text(note, style="dim"), *(Text(line) for line in self.health))

    def markdown(self, figures: list[Path], folder: Path) -> str:
        """Return the whole report as Markdown; figures are linked relative to `folder`."""
        parts = [f"# {self.name}\n", NOTES, *(table.markdown() for table in self.tables)]
        if self.health:
            parts.append("## Health\n\n" + "\n".join(f"- {line}" for line in self.health) + "\n")
        for figure in figures:
            parts.append(f"![{figure.stem.replace('_', ' ')}]({figure.relative_to(folder).as_posix()})\n")
        return "\n".join(parts)


def make_report(sweep_dir: str | Path) -> Report:
    """Make the report of the finished trials of a sweep folder.

    Raises:
        DataError: No trial is finished, or a summary cannot be read.
    """
    results = load_results(sweep_dir)
    if not results:
        raise DataError(f"'{sweep_dir}' has no finished trial; run the sweep, or give another sweep folder")
    found = by_setting(results).items()
    return Report(
        name=Path(sweep_dir).absolute().name,
        results=tuple(results),
        cycles=tuple(aggregate(setting, own) for setting, own in found if isinstance(setting, CycleSetting)),
        transfers=tuple(aggregate(setting, own) for setting, own in found if isinstance(setting, TransferSetting)),
    )


def write_report(report: Report, sweep_dir: str | Path, figures: list[Path]) -> list[Path]:
    """Write report.md and report.json into the sweep folder; return their paths."""
    folder = Path(sweep_dir).absolute()
    text, data = folder / REPORT_FILE, folder / JSON_FILE
    text.write_text(report.markdown([Path(f).absolute() for f in figures], folder), encoding="utf-8")
    tree = {"sweep": report.name, "cycles": nan_to_null(report.cycles), "transfers": nan_to_null(report.transfers)}
    data.write_text(json.dumps(tree, indent=1, allow_nan=False), encoding="utf-8")
    return [text, data]
