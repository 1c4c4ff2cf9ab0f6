"""Latents as the page shows them: typed records, without HTML."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmsae_ray.evaluation import LatentFiring
    from dmsae_ray.lm import TokenText

Progress = Callable[[str, int, int, str], None]
"""Told what is done, how much of it, of how much, and the unit."""


def no_progress(what: str, done: int, total: int, unit: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Nearest:
    """The latent of another core whose encoder row points most nearly in the same direction.

    Attributes:
        anchor: that latent, as in `LatentRow.anchor`.
        trial: its trial.
        cosine: cosine of the two encoder rows.
    """

    anchor: str
    trial: str
    cosine: float


@dataclass(frozen=True, eq=False)
class LatentRow:
    """One latent of a table, and its page.

    Attributes:
        anchor: name of its page within the document.
        name: what a reader calls it: its lineage id, or its row in the SAE.
        latent: its row in the SAE.
        part: 'core', or its Matryoshka group.
        trial: its trial; '' where the table is of one SAE, as in the next two.
        setting: setting of the trial.
        seed: seed of the trial.
        distilled: whether it is in the distilled core C*.
        born: cycle in which its encoder row was learned; None where that is unknown.
        survived: later cycles in which it was selected again.
        scores: its share of the summed score of the pool, by cycle from 0 on; None where it was not in the pool or not
            scored. Of one SAE: that of its cycle alone.
        sampled_frequency: share of the attribution set's tokens at which it fires; None if unknown.
        nearest: one for each other seed of the same setting, highest cosine first; without the seeds whose cores have
            this very row by construction.
        firing: where it fires on held-out tokens; None if it was not looked at.
        promoted: (token, change of its logit), largest first.
        suppressed: the same for the lowered ones, lowest first.
    """

    anchor: str
    name: str
    latent: int
    part: str = ""
    trial: str = ""
    setting: str = ""
    seed: int | None = None
    distilled: bool = False
    born: int | None = None
    survived: int | None = None
    scores: tuple[float | None, ...] = ()
    sampled_frequency: float | None = None
    nearest: tuple[Nearest, ...] = ()
    firing: "LatentFiring | None" = None
    promoted: tuple[tuple[int, float], ...] = ()
    suppressed: tuple[tuple[int, float], ...] = ()

    @property
    def frequency(self) -> float | None:
        """Share of the held-out tokens at which it fires; of the attribution set's where it was not looked at."""
        return self.firing.frequency if self.firing is not None else self.sampled_frequency


@dataclass(frozen=True, eq=False)
class LatentTable:
    """The latents of one SAE, or of the cores of a sweep.

    Attributes:
        title: what they are latents of.
        of_sweep: whether they are cores of trials, with lineage.
        rows: the latents, in the order in which they are listed.
        text: text of the tokens; None if there is no tokenizer.
        about: lines on what is shown.
        lacks: lines on what is not shown, and why.
    """

    title: str
    of_sweep: bool
    rows: tuple[LatentRow, ...]
    text: "TokenText | None"
    about: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
