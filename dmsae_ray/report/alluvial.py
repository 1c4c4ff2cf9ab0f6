"""An alluvial picture: cohorts that flow through cycles, each as high as it is large."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dmsae_ray.report.plots import readable_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR = 0.34
"""Width of a cycle's bar."""


def draw_alluvial(axes: "Axes", cohorts: Mapping[int, Sequence[float]], colours: Sequence[str]) -> None:
    """Draw the cohorts of each cycle as a stack, the oldest at the bottom, with bands to what is left of them next.

    What a cohort loses tapers off in grey.

    Args:
        axes: Where to draw.
        cohorts: By birth b: the sizes in cycles b, b + 1, ...
        colours: A colour for each birth.
    """
    births = sorted(cohorts)
    cycles = max((birth + len(cohorts[birth]) for birth in births), default=0)
    size = np.zeros((len(births), cycles))
    for row, birth in enumerate(births):
        size[row, birth : birth + len(cohorts[birth])] = cohorts[birth]
    base = np.cumsum(size, axis=0) - size
    tallest = float(size.sum(axis=0).max()) if size.size else 0.0
    for row, birth in enumerate(births):
        paint = colours[birth % len(colours)]
        for cycle in range(birth, cycles):
            low, height = base[row, cycle], size[row, cycle]
            label = f"born in cycle {birth}" if cycle == birth else None
            axes.bar(cycle, height, BAR, bottom=low, color=paint, edgecolor="white", linewidth=0.5, label=label)
            if height > 0.07 * tallest:
                style: Any = {"ha": "center", "va": "center", "fontsize": 6.5, "color": readable_on(paint)}
                axes.text(cycle, low + height / 2, f"{height:.3g}", **style)
            if cycle + 1 < cycles:
                kept = size[row, cycle + 1]
                _band(axes, cycle, (low, low + kept), (base[row, cycle + 1], base[row, cycle + 1] + kept), paint)
                _loss(axes, cycle, low + kept, low + height)
    axes.set_xticks(range(cycles))
    axes.set_xlim(-0.4, max(0.4, cycles - 0.6))
    axes.grid(visible=False)


def _band(axes: "Axes", cycle: int, left: tuple[float, float], right: tuple[float, float], paint: str) -> None:
    step = np.linspace(0, 1, 24)
    ease = step * step * (3 - 2 * step)
    x = cycle + BAR / 2 + step * (1 - BAR)
    low, high = (a + (b - a) * ease for a, b in zip(left, right, strict=True))
    axes.fill_between(x, low, high, color=paint, alpha=0.35, linewidth=0)


def _loss(axes: "Axes", cycle: int, low: float, high: float) -> None:
    if high - low <= 0:
        return
    step = np.linspace(0, 1, 16)
    x = cycle + BAR / 2 + step * 0.3
    middle = (low + high) / 2
    reach = (high - low) / 2 * (1 - step)
    axes.fill_between(x, middle - reach, middle + reach, color="#9AA3AD", alpha=0.6, linewidth=0)
