"""The tables of a report, each defined once for both the terminal and Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from dmsae_ray.plan import CycleSetting, Setting, TransferSetting
from dmsae_ray.report.aggregate import Aggregate, Consistency
from dmsae_ray.report.estimates import Estimate


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Title of the table.
        head: Heads of the columns, broken into short lines (within words at '-').
        rows: Rows with one cell per column.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

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
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*(cell.replace(" ±", "\n±").replace(" [", "\n[") for cell in row))
        return table

    def markdown(self) -> str:
        """Return a Markdown table under a heading."""
        head = tuple(name.replace("-\n", "").replace("\n", " ") for name in self.head)
        lines = [head, tuple("---:" for _ in head), *self.rows]
        return f"## {self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main_table(aggregates: Sequence[Aggregate[CycleSetting]]) -> Table:
    """Tabulate core sizes, carryover beside chance and controls, the two parts of L0, FVU and loss recovered."""
    controls = sorted({name for a in aggregates for name in a.controls})
    head = ("k", "τ", "n", "core size\nby cycle", "carry-\nover", "chance", *(f"{_word(c)}\ncontrol" for c in controls))
    head += ("dis-\ntilled", "L0\ncore", "L0\nrest", "FVU", "loss\nrec.")
    rows = [
        (
            str(a.setting.k),
            f"{a.setting.coverage:g}",
            str(len(a.seeds)),
            " ".join(size.text(0).split(" ")[0] for size in a.core_sizes),
            a.carryover.text(),
            a.chance.text(),
            *(a.controls[c].text() if c in a.controls else "-" for c in controls),
            a.distilled_size.text(1 if a.distilled_size.n > 1 else 0),
            a.metrics["l0_core"].text(),
            a.metrics["l0_non_core"].text(),
            a.metrics["fvu"].text(3),
            a.metrics["loss_recovered"].text(3),
        )
        for a in aggregates
    ]
    return Table("Cores", head, tuple(rows))


def cycles_table(aggregates: Sequence[Aggregate[CycleSetting]]) -> Table:
    """Tabulate core sizes and carryover of every cycle, with intervals."""
    cycles = max(len(a.core_sizes) for a in aggregates)
    head = ("k", "τ", *(f"core {c}" for c in range(cycles)), *(f"carryover {c}" for c in range(1, cycles)))
    rows = []
    for a in aggregates:
        sizes = [size.text(1 if size.n > 1 else 0) for size in a.core_sizes]
        carried = [c.text() for c in a.carryovers]
        cells = (*_padded(sizes, cycles), *_padded(carried, cycles - 1))
        rows.append((str(a.setting.k), f"{a.setting.coverage:g}", *cells))
    return Table("By cycle", head, tuple(rows))


def margin_table(aggregates: Sequence[Aggregate[CycleSetting]]) -> Table:
    """Tabulate the evidence for a core: carryover minus each control's, share of the score, PW-MCC of the seeds."""
    controls = sorted({name for a in aggregates for name in a.margins})
    head = ("k", "τ", "n", *(f"carryover\nover {c.replace('_', ' ')}" for c in controls))
    head += ("core's share\nof the score", "PW-MCC\nof the seeds", "chance\nPW-MCC")
    rows = [
        (
            str(a.setting.k),
            f"{a.setting.coverage:g}",
            str(len(a.seeds)),
            *(a.margins[c].text() if c in a.margins else "-" for c in controls),
            a.core_share.text(),
            *_consistency(a.consistency),
        )
        for a in aggregates
    ]
    return Table("Cores against norm-matched controls, and between seeds", head, tuple(rows))


def transfer_table(aggregates: Sequence[Aggregate[TransferSetting]]) -> Table:
    """Tabulate SAEs trained around a fixed core, at measured L0."""
    head = (
        "k",
        "core",
        "core\nL0",
        "n",
        "L0",
        "L0\ncore",
        "L0\nrest",
        "FVU",
        "loss\nrec.",
        "core\nkept",
        "core\nshare",
    )
    rows = [
        (
            str(a.setting.k),
            a.setting.arm,
            "-" if a.setting.arm == "baseline" else a.setting.core_sparsity,
            str(len(a.seeds)),
            *(a.metrics[name].text() for name in ("l0", "l0_core", "l0_non_core")),
            *(a.metrics[name].text(3) for name in ("fvu", "loss_recovered")),
            a.carryover.text(),
            a.core_share.text(),
        )
        for a in aggregates
    ]
    return Table("Transfer", head, tuple(rows))


def cost_table(aggregates: Sequence[Aggregate[Setting]]) -> Table:
    """Tabulate the cost of one cycle."""
    head = ("setting", "seconds a cycle", "FLOP a cycle")
    rows = [(a.setting.label, a.seconds.text(1), _power(a.flops)) for a in aggregates]
    return Table("Cost", head, tuple(rows))


def _consistency(found: Consistency | None) -> tuple[str, str]:
    if found is None:
        return ("-", "-")
    spread = f" [{found.low:.2f}, {found.high:.2f}]" if found.pairs > 1 else ""
    return (f"{found.mean:.2f}{spread}", f"{found.chance:.2f}")


def _power(value: Estimate) -> str:
    return "-" if value.n == 0 else f"{value.mean:.2e}"


def _padded(cells: list[str], length: int) -> list[str]:
    return cells + ["-"] * (length - len(cells))


def _word(name: str) -> str:
    return name.replace("_", "\n")
