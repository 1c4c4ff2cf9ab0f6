"""Write the report and the figures of a sweep into its folder, or a comparison of several sweeps into one file."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dmsae_ray.errors import ConfigError
from dmsae_ray.files import replacing
from dmsae_ray.report.comparison import comparison_lead, comparison_picture, comparison_section, labels
from dmsae_ray.report.figures import write_figures
from dmsae_ray.report.page import Section, page
from dmsae_ray.report.picture import Which
from dmsae_ray.report.quality_page import stored_quality
from dmsae_ray.report.rediscovery_page import REDISCOVERY
from dmsae_ray.report.report import Report, make_report, write_report
from dmsae_ray.report.sections import report_lead, report_sections

HTML_FILE = "report.html"


def publish(
    sweep_dir: str | Path, *, draw: Which = "all", sections: Callable[[], Sequence[Section]] = tuple
) -> tuple[Report, list[Path]]:
    """Write report.html, report.md, report.json and figures/ (each as PNG, SVG and CSV).

    It works from the first finished cycle on, also while the sweep runs.

    Args:
        sweep_dir: The sweep folder.
        draw: Which figures are drawn: 'all', those whose numbers have 'changed', or 'none', which takes a second: then
            pictures of an earlier time stay, and say so.
        sections: Called when the figures are drawn, for more parts of the HTML page, at its end; rediscovery stands
            second. What `dmsae eval` found is there by itself.

    Returns:
        The report, and the files written.

    Raises:
        DataError: Nothing is finished, or a summary or the journal cannot be read.
    """
    report = make_report(sweep_dir)
    figures = write_figures(report, sweep_dir, which=draw)
    first, *rest = [*report_sections(report, figures)]
    more = sections()
    answers = [s for s in more if s.anchor == REDISCOVERY]  # beside what came back: is it found again?
    quality = stored_quality(Path(sweep_dir), draw)
    rest += [] if quality is None else [quality]
    parts = [first, *answers, *rest, *(s for s in more if s.anchor != REDISCOVERY)]
    html = _write(Path(sweep_dir).absolute() / HTML_FILE, page(report.name, parts, report_lead(report)))
    return report, [html, *write_report(report, sweep_dir, figures.drawn), *figures.files]


def compare(sweep_dirs: Sequence[str | Path], out: str | Path) -> tuple[list[Report], list[Path]]:
    """Write one page that compares several sweeps; nothing is written into their folders.

    Args:
        sweep_dirs: The sweep folders.
        out: The HTML file to write. The figures are beside it, in a folder `<its name>-figures`.

    Returns:
        The reports, and the files written, the page first.

    Raises:
        ConfigError: The file cannot be written.
        DataError: Nothing is finished in one of them, or it cannot be read.
    """
    folders = list(dict.fromkeys(Path(folder).absolute() for folder in sweep_dirs))
    reports = [make_report(folder) for folder in folders]
    labelled = list(zip(labels(folders), reports, strict=True))
    out = Path(out).expanduser().absolute()
    beside = out.with_name(f"{out.stem}-figures")
    try:
        compared = comparison_picture(labelled).write(beside)
        html, files = ("", []) if compared is None else (compared.html(), list(compared.files))
        parts = [comparison_section(labelled, html)]
        for n, (folder, (name, report)) in enumerate(zip(folders, labelled, strict=True), start=1):
            figures = write_figures(report, folder, folder=beside / f"{n}-{folder.name}")
            own = report_sections(report, figures, f"sweep-{n}-")
            own = [s for s in own if n == len(folders) or not s.anchor.endswith("words")]  # once is enough
            parts += [replace(s, title=f"{name}: {s.title}") for s in own]
            files += figures.files
        title = "Sweeps compared: " + ", ".join(name for name, _ in labelled)
        return reports, [_write(out, page(title, parts, comparison_lead(labelled))), *files]
    except OSError as error:
        raise ConfigError(f"--out is '{out}'; it must be a file that can be written ({error.strerror})") from None


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
