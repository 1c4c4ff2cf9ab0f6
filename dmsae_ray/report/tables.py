"""The tables of a report, each defined once for the terminal, Markdown and HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import comb

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from dmsae_ray.config import short_names, value_text
from dmsae_ray.plan import CycleSetting, Setting, TransferSetting, axes_of, times_the_tokens
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import NONE, Estimate
from dmsae_ray.report.finding import UNMATCHED
from dmsae_ray.report.seed_similarity import Consistency
from dmsae_ray.results import TrialResult


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Title of the table.
        head: Heads of the columns, broken into short lines (within words at '-').
        rows: Rows with one cell per column. An interval or the values follow a number as ' [low, high]' or ' (a, b)'.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Heads of the columns in one line each."""
        return tuple(name.replace("-\n", "").replace("\n", " ") for name in self.head)

    def rich(self) -> RichTable:
        """Return the table for the terminal: narrow, with intervals below their means."""
        table = RichTable(
            title=self.title,
            title_justify="left",
            title_style="bold",
            header_style="bold",
            box=SIMPLE_HEAD,
            padding=0,
            pad_edge=False,
            row_styles=("", "dim") if len(self.rows) > 2 else None,
        )
        for name in self.head:
            table.add_column(name, justify="right", overflow="fold")
        for row in self.rows:
            table.add_row(*("\n".join(line.replace(", ", ",\n") for line in _parts(cell)) for cell in row))
        return table

    def markdown(self) -> str:
        """Return a Markdown table under a heading."""
        lines = [self.names, tuple("---:" for _ in self.head), *self.rows]
        return f"## {self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def html(self) -> str:
        """Return an HTML table under a heading, with intervals small below their means."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.names)
        body = "\n".join("<tr>" + "".join(f"<td>{_html(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
        return f'<h3>{escape(self.title)}</h3>\n<div class="wide">{table}</div>'


def cores_table(aggregates: Sequence[Aggregate[CycleSetting]], last_cycle: int | None) -> Table:
    """Tabulate core sizes, and carryover beside test-retest, chance and controls."""
    controls = sorted({name for a in aggregates for name in a.controls})
    head: tuple[str, ...] = (
        *setting_columns(aggregates),
        "core size\nby cycle",
        "carry-\nover",
        "came\nback",
        "re-\ntest",
        "chance",
    )
    head += (*(f"{_word(c)}\ncontrol" for c in controls), "dis-\ntilled")
    rows = [
        (
            *setting_texts(a),
            " ".join(f"{size.mean:.0f}" for size in a.core_sizes) or "-",
            _of(a.carryover, a),
            f"{a.carried[0]} of {a.carried[1]}" if a.carried[1] else "-",
            _of(a.retest, a),
            a.chance.text(),
            *(_of(a.controls.get(c, NONE), a) for c in controls),
            a.distilled_size.text(1 if a.distilled_size.n > 1 else 0),
        )
        for a in aggregates
    ]
    return with_remarks(Table("Cores", head, tuple(rows)), aggregates, last_cycle, behind_n(head))


def use_table(aggregates: Sequence[Aggregate[CycleSetting]], last_cycle: int | None) -> Table:
    """Tabulate what a core costs and gives: measured L0, how often its latents fire, dead latents, reconstruction."""
    head: tuple[str, ...] = (
        *setting_columns(aggregates),
        "L0",
        "L0\ncore",
        "core\nfires\nmedian",
        "core\nfires\nmost",
        "core\ndead",
        "dead",
        "FVU",
    )
    head += ("loss\nrec.",)
    rows = [
        (
            *setting_texts(a),
            a.metrics["l0"].text(1),
            a.metrics["l0_core"].text(1),
            *(a.metrics[name].percent() for name in ("core_frequency_median", "core_frequency_max")),
            *(a.metrics[name].percent() for name in ("core_dead_fraction", "dead_fraction")),
            a.metrics["fvu"].text(3),
            a.metrics["loss_recovered"].text(3),
        )
        for a in aggregates
    ]
    table = Table("Use and reconstruction, in the last cycle", head, tuple(rows))
    return with_remarks(table, aggregates, last_cycle, behind_n(head))


def cycles_table(aggregates: Sequence[Aggregate[CycleSetting]], last_cycle: int | None) -> Table:
    """Tabulate core sizes and carryover of every cycle, beside test-retest, with intervals."""
    cycles = max(len(a.core_sizes) for a in aggregates)
    head: tuple[str, ...] = (
        *setting_columns(aggregates),
        *(f"core {c}" for c in range(cycles)),
        *(f"{what} {c}" for c in range(1, cycles) for what in ("carryover", "retest")),
    )
    rows = []
    for a in aggregates:
        sizes = [size.text(1 if size.n > 1 else 0) for size in a.core_sizes]
        carried = [_of(c, a) for both in zip(a.carryovers, a.retests, strict=True) for c in both]
        rows.append((*setting_texts(a), *_padded(sizes, cycles), *_padded(carried, 2 * (cycles - 1))))
    return with_remarks(Table("By cycle", head, tuple(rows)), aggregates, last_cycle, behind_n(head))


def margin_table(aggregates: Sequence[Aggregate[CycleSetting]], last_cycle: int | None) -> Table:
    """Tabulate the evidence for a core: carryover minus each control's, share of the score, PW-MCC of the seeds."""
    controls = sorted({name for a in aggregates for name in a.margins})
    head: tuple[str, ...] = (
        *setting_columns(aggregates),
        *(f"carryover\nover {c.replace('_', ' ')}" for c in controls),
    )
    head += ("core's share\nof the score", "PW-MCC\nof the seeds", "chance\nPW-MCC")
    shared = any(a.consistency is not None and a.consistency.shared for a in aggregates)
    head += ("shared rows\nleft out",) if shared else ()
    rows = [
        (
            *setting_texts(a),
            *(_of(a.margins.get(c, NONE), a) for c in controls),
            a.core_share.text(),
            *_consistency(a.consistency, len(a.seeds))[: 3 if shared else 2],
        )
        for a in aggregates
    ]
    which = "controls" if UNMATCHED in controls else "norm-matched controls"
    table = Table(f"Cores against {which}, and between seeds", head, tuple(rows))
    return with_remarks(table, aggregates, last_cycle, behind_n(head))


def transfer_table(aggregates: Sequence[Aggregate[TransferSetting]]) -> Table:
    """Tabulate SAEs trained around a fixed core, at measured L0."""
    axes = axes_of(a.setting for a in aggregates)
    head: tuple[str, ...] = (
        "k",
        "core",
        *(_word(name) for name in axis_names(axes)),
        "n",
        "L0",
        "L0\ncore",
        "core\nfires\nmedian",
        "dead",
        "FVU",
        "loss\nrec.",
    )
    head += ("core\nkept", "core\nshare")
    rows = [
        (
            str(a.setting.k),
            core_text(a.setting),
            *axis_texts(a.setting, axes),
            str(len(a.seeds)),
            *(a.metrics[name].text(1) for name in ("l0", "l0_core")),
            *(a.metrics[name].percent() for name in ("core_frequency_median", "dead_fraction")),
            *(a.metrics[name].text(3) for name in ("fvu", "loss_recovered")),
            a.carryover.text(),
            a.core_share.text(),
        )
        for a in aggregates
    ]
    return with_remarks(Table("Transfer", head, tuple(rows)), aggregates, None, behind_n(head))


def cost_table(aggregates: Sequence[Aggregate[Setting]], last_cycle: int | None) -> Table:
    """Tabulate the cost of one cycle, of what the method itself trains, and of the controls beside it."""
    head: tuple[str, ...] = ("setting", "n", "seconds a cycle", "FLOP a cycle", "FLOP of all\ncycles")
    controls = any(a.control_flops.n and a.control_flops.mean > 0 for a in aggregates)
    made = any(a.whole_flops.n and a.whole_flops.mean > a.trial_flops.mean for a in aggregates)
    head += ("FLOP of the\ncontrols",) if controls else ()
    head += ("FLOP with the\ncore's trainings",) if made else ()
    rows = [
        (
            a.setting.label,
            str(len(a.seeds)),
            a.seconds.text(1),
            *(_power(value) for value in (a.flops, a.trial_flops)),
            *((_power(a.control_flops),) if controls else ()),
            *((_power(a.whole_flops),) if made else ()),
        )
        for a in aggregates
    ]
    return with_remarks(Table("Time and FLOP", head, tuple(rows)), aggregates, last_cycle, behind_n(head))


def running_table(trials: Sequence[TrialResult], last_cycle: int | None) -> Table:
    """Tabulate the trials that are not finished, each in its last finished cycle."""
    head: tuple[str, ...] = (
        "trial",
        "finished\ncycles",
        "core size\nby cycle",
        "carry-\nover",
        "chance",
        "L0",
        "FVU",
        "loss\nrec.",
    )
    of = "" if last_cycle is None else f" of {last_cycle + 1}"
    rows, any_stopped = [], any(trial.stopped for trial in trials)
    for r in trials:
        measured = [(r.last.carryover, 2), (r.last.chance, 2), (r.last.metrics.get("l0"), 1)]
        measured += [(r.last.metrics.get("fvu"), 3), (r.last.metrics.get("loss_recovered"), 3)]
        numbers = ("-" if value is None else f"{value:.{digits}f}" for value, digits in measured)
        done = f"{len(r.reports)}{of if isinstance(r.setting, CycleSetting) else ''}"
        state = ("stopped" if r.stopped else "not done",) if any_stopped else ()
        rows.append((r.trial_id, *state, done, " ".join(map(str, r.core_sizes)) or "-", *numbers))
    head = (head[0], "state", *head[1:]) if any_stopped else head
    return Table(f"{running_title(trials)}, in their last finished cycle", head, tuple(rows))


def running_title(trials: Sequence[TrialResult]) -> str:
    """Return what trials without a result are called: a scheduler may have stopped some."""
    return f"{'Stopped' if all(trial.stopped for trial in trials) else 'Unfinished'} trials"


def differences_table(sweeps: Sequence[tuple[str, Mapping[str, object] | None]]) -> Table | None:
    """Tabulate the settings in which sweeps differ; None if there are none.

    Args:
        sweeps: Name of each, and its settings by their dotted names; None where they are not known.
    """
    known = [settings for _, settings in sweeps if settings is not None]
    names = list(dict.fromkeys(name for settings in known for name in settings))
    differing = [name for name in names if len({repr(settings.get(name)) for settings in known}) > 1]
    if not differing:
        return None
    rows = [(name, *("-" if s is None else str(s.get(name)) for _, s in sweeps)) for name in differing]
    return Table("Settings that differ", ("setting", *(name for name, _ in sweeps)), tuple(rows))


def remark(one: Aggregate[Setting], last_cycle: int | None) -> str:
    """Return which seeds of a setting are not behind its numbers, and how far these are if no trial is finished.

    It stands beside n in every table and comparison: n are the seeds behind a number, and no collapsed seed is one.
    """
    parts = [f"{len(one.collapsed)} collapsed"] if one.collapsed else []
    go_on = len(one.running) - len(one.stopped)
    if one.running and one.finished:
        parts += [f"{len(one.stopped)} stopped"] if one.stopped else []
        parts += [f"{go_on} not done"] if go_on else []
    elif one.running:
        cycle = "" if one.cycle is None or last_cycle is None else f": cycle {one.cycle} of {last_cycle}"
        parts.append(f"{'not done' if go_on else 'stopped'}{cycle}")
    return "; ".join(parts)


def with_remarks(
    table: Table,
    aggregates: Sequence[Aggregate[CycleSetting]] | Sequence[Aggregate[TransferSetting]] | Sequence[Aggregate[Setting]],
    last_cycle: int | None,
    place: int,
) -> Table:
    """Return the table with a column of remarks behind n, at `place`, where there are any."""
    remarks = [remark(a, last_cycle) for a in aggregates]
    if not any(remarks):
        return table
    head: tuple[str, ...] = (*table.head[:place], "not in n,\nor so far", *table.head[place:])
    rows = [(*row[:place], said or "-", *row[place:]) for row, said in zip(table.rows, remarks, strict=True)]
    return Table(table.title, head, tuple(rows))


def behind_n(head: tuple[str, ...]) -> int:
    """Return the place of the column behind n."""
    return head.index("n") + 1


def setting_columns(aggregates: Sequence[Aggregate[CycleSetting]]) -> tuple[str, ...]:
    """Return the heads of the columns that say the setting, and n."""
    axes = short_names(aggregates[0].setting.axes).values()
    return ("k", "τ", *(_word(name) for name in axes), "n")


def setting_texts(one: Aggregate[CycleSetting]) -> tuple[str, ...]:
    """Return the cells below `setting_columns`."""
    axes = (value_text(value) for _, value in one.setting.axes)
    return (str(one.setting.k), one.setting.selects, *axes, str(len(one.seeds)))


def axis_names(axes: Sequence[str]) -> tuple[str, ...]:
    """Return the short names of axes, which some of the settings may not have."""
    return tuple(short_names(tuple((axis, None) for axis in axes)).values())


def axis_texts(setting: Setting, axes: Sequence[str]) -> tuple[str, ...]:
    """Return a setting's values of these axes: '-' where a setting does not depend on the axis."""
    own = dict(setting.axes)
    return tuple(value_text(own[axis]) if axis in own else "-" for axis in axes)


def core_text(setting: TransferSetting) -> str:
    """Return what an SAE was trained around, as a cell of a table: 'distilled (dense)', 'none'."""
    how = times_the_tokens(setting.budget) if setting.arm == "baseline" else setting.core_sparsity
    name = "none" if setting.arm == "baseline" else setting.arm
    return f"{name} ({how})" if how else name


def _of(value: Estimate, one: Aggregate[CycleSetting]) -> str:
    """Return an estimate with its n, where it is of fewer seeds than the row."""
    return f"{value.text()}, n = {value.n}" if 0 < value.n < len(one.seeds) else value.text()


def _consistency(found: Consistency | None, seeds: int) -> tuple[str, str, str]:
    """Return PW-MCC, its chance level, and the rows that are left out; fewer pairs than `seeds` have are said."""
    if found is None:
        return ("-", "-", "-")
    left_out = f"{found.shared} of {found.shared + found.matched}" if found.shared else "0"
    if found.mean is None:
        return ("not comparable", "-", left_out)
    value = f"{found.mean:.2f}" + (f" [{found.low:.2f}, {found.high:.2f}]" if found.pairs > 1 else "")
    value += f", {found.pairs} of {comb(seeds, 2)} pairs" if found.pairs < comb(seeds, 2) else ""
    chance = "-"
    if found.chance is not None:
        chance = f"{found.chance:.2f} [{found.chance_low:.2f}, {found.chance_high:.2f}]"
    return (value, chance, left_out)


def _power(value: Estimate) -> str:
    return "-" if value.n == 0 else f"{value.mean:.2e}"


def _padded(cells: list[str], length: int) -> list[str]:
    return cells + ["-"] * (length - len(cells))


def _word(name: str) -> str:
    return name.replace("_", "\n")


def _parts(cell: str) -> list[str]:
    """Return a number and what follows it in brackets, apart."""
    for mark in (" [", " ("):
        number, found, rest = cell.partition(mark)
        if found:
            return [number, found.strip() + rest]
    return [cell]


def _html(cell: str) -> str:
    number, *rest = _parts(cell)
    return escape(number) + "".join(f'<small class="range">{escape(part)}</small>' for part in rest)
