"""A figure of a report: its picture, its caption, and the numbers that it shows; as files and as HTML."""

import base64
import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dmsae_ray.files import replacing
from dmsae_ray.report.estimates import Estimate
from dmsae_ray.report.plots import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ESTIMATE_HEAD = ("mean", "low", "high", "n", "seeds")
"""Columns of an estimate in a CSV file; `seeds` are the values of the seeds, with spaces between."""

OLDER = "This picture was drawn earlier, from fewer results than the tables have."

Which = Literal["all", "changed", "none"]
"""Which figures are drawn."""

Cell = str | int | float | None


@dataclass(frozen=True)
class Picture:
    """A figure that can be drawn.

    Attributes:
        name: Name of its files.
        title: Its title, plain text.
        caption: What is shown, what n is, what is shaded, and what to conclude; plain text.
        head: Columns of its numbers.
        rows: Its numbers; all of them, also where not every panel is drawn.
        draw: Draws it.
    """

    name: str
    title: str
    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    draw: "Callable[[], Figure]"

    def csv(self) -> str:
        """Return its numbers as CSV; an empty cell is a number that does not exist."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return text.getvalue()

    def write(self, folder: Path, which: Which = "all") -> "Drawn | None":
        """Write it into a folder as PNG, SVG and CSV.

        Args:
            folder: The folder.
            which: 'all': draw it; 'changed': only if its files have other numbers; 'none': take its files as they are.

        Returns:
            The figure with its files; None if it is not there and not to be drawn.
        """
        png, svg, numbers = (folder / f"{self.name}.{kind}" for kind in ("png", "svg", "csv"))
        there, content = png.is_file() and svg.is_file() and numbers.is_file(), self.csv().encode()
        same = there and numbers.read_bytes() == content
        if which == "none":
            return Drawn(self, png, svg, numbers, older=not same) if there else None
        if which == "all" or not same:
            figure = self.draw()
            save(figure, png)
            save(figure, svg)
            with replacing(numbers) as temporary:  # the last: it says that the pictures show these numbers
                temporary.write_bytes(content)
        return Drawn(self, png, svg, numbers)


@dataclass(frozen=True)
class Drawn:
    """A figure with its files.

    Attributes:
        picture: The figure.
        png: Its picture in pixels.
        svg: Its picture in lines.
        csv: Its numbers.
        older: Whether the files have other numbers than the figure has now: they were drawn earlier.
    """

    picture: Picture
    png: Path
    svg: Path
    csv: Path
    older: bool = False

    @property
    def caption(self) -> str:
        """Its caption; of an older picture it says only that."""
        return OLDER if self.older else self.picture.caption

    @property
    def files(self) -> list[Path]:
        """Its files."""
        return [self.png, self.svg, self.csv]

    def html(self, prefix: str = "") -> str:
        """Return it as HTML that needs no file: the picture as SVG in a data URI, its numbers behind a link.

        Args:
            prefix: What its id begins with, where a page has the same figure of several sweeps.
        """
        picture, title = _data("image/svg+xml", self.svg.read_bytes()), escape(self.picture.title)
        numbers, name = _data("text/csv", self.csv.read_bytes()), escape(self.picture.name)
        return (
            f'<figure id="{prefix}figure-{name.replace("_", "-")}">\n<h3>{title}</h3>\n'
            f'<img src="{picture}" alt="{title}">\n'
            f"<figcaption>{escape(self.caption)} "
            f'<a download="{name}.csv" href="{numbers}">Numbers (CSV)</a></figcaption>\n</figure>'
        )


def estimate_cells(value: Estimate) -> tuple[Cell, ...]:
    """Return the cells of an estimate, in the order of `ESTIMATE_HEAD`."""
    low, high = value.interval or (None, None)
    return (value.mean if value.n else None, low, high, value.n, " ".join(f"{v:.6g}" for v in value.values))


def _cell(value: Cell) -> Cell:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return "" if value is None else value


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
