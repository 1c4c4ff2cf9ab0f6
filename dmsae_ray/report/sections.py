"""The report of one sweep as sections of an HTML page."""

import re
from collections.abc import Sequence
from html import escape

from dmsae_ray.report.figures import Figures
from dmsae_ray.report.page import Section
from dmsae_ray.report.report import NOTES, Report
from dmsae_ray.report.tables import (
    Table,
    cores_table,
    cost_table,
    cycles_table,
    margin_table,
    running_table,
    running_title,
    transfer_table,
    use_table,
)


def report_lead(report: Report) -> str:
    """Return the head of a sweep's page: what was found, how far the sweep is, and what carryover does not say."""
    return f'<p class="finding">{escape(report.finding())}</p>\n<p class="soft">{escape(report.remarks)}</p>'


def report_sections(report: Report, figures: Figures, prefix: str = "") -> list[Section]:
    """Return the sections of a sweep's report.

    Args:
        report: The report.
        figures: Its figures.
        prefix: What their anchors begin with, where a page has several sweeps.
    """
    sections: list[Section] = []

    def add(anchor: str, title: str, tables: Sequence[Table], names: Sequence[str] = (), more: str = "") -> None:
        shown = [d.html(prefix) for name in names for d in figures.drawn if d.picture.name == name]
        parts = [*(table.html() for table in tables), *shown, *([more] if more else [])]
        if parts:
            sections.append(Section(prefix + anchor, title, "\n".join(parts)))

    cycles, transfers, last = report.cycles, report.transfers, report.last_cycle
    if cycles:
        tables = [cores_table(cycles, last), margin_table(cycles, last), report.other_scores]
        add("cores", "What came back", tables, ("carryover", "heat_maps"))
        add("use", "Use and reconstruction", [use_table(cycles, last)], ("core_l0", "coverage", "score_coverage"))
        tables = [cycles_table(cycles, last), *report.chains]
        add("cycles", "From cycle to cycle", tables, ("selected_sets", "lineage", "survival"))
    if transfers:
        add("transfer", "Transfer", [transfer_table(transfers)], ("transfer", *(() if cycles else ("core_l0",))))
    add("axes", "What the axes change", report.axis_changes, ("axis_effects",))
    if report.running:
        add("running", running_title(report.running), [running_table(report.running, last)])
    add("cost", "Cost", [cost_table((*cycles, *transfers), last)], ("cost",))
    lines = [*report.health, *figures.left_out]
    if lines:
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        add("health", "Health", [], more=f"<ul>{items}</ul>")
    add("words", "How to read it", [], more=f"<p>{_bold(NOTES)}</p>")
    if report.settings:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in report.settings.items()
        )
        shared = f"<details><summary>{len(report.settings)} settings that all trials share</summary>"
        add("settings", "Settings", [], more=f'{shared}<div class="wide"><table>{rows}</table></div></details>')
    return sections


def _bold(markdown: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(markdown))
