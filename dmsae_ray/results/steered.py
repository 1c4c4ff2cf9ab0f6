"""Trials that are not run to their end: a scheduler stopped them, or a searcher did not ask for them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from dmsae_ray.errors import DataError, DmsaeError
from dmsae_ray.files import Folder, decode_record
from dmsae_ray.plan import many
from dmsae_ray.results.folders import Folders

STEERED_FILE = "steered.json"


@dataclass(frozen=True)
class StoppedTrial:
    """A trial that a scheduler stopped.

    Attributes:
        reason: Who stopped it and where, in words.
        numbers: What was known of it then, see `TrialReport.known`.
    """

    reason: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass
class Steered:
    """The record of schedulers and searchers in a sweep's folder; only its controller writes it.

    Attributes:
        stopped: Trials that a scheduler stopped, by name.
        searcher: Name of the searcher that chooses trials; None if all are run.
        asked: Trials that it asked for, and those that were there before.
        room: How many others it may still ask for.
    """

    stopped: dict[str, StoppedTrial] = field(default_factory=dict)
    searcher: str | None = None
    asked: list[str] = field(default_factory=list)
    room: int = 0

    @classmethod
    def read(cls, sweep: Folder) -> "Steered":
        """Return the record in a sweep's folder; an empty one if there is none.

        Raises:
            DataError: It is damaged, or cannot be read.
        """
        content = sweep.read(STEERED_FILE)
        if content is None:
            return cls()
        try:
            tree = decode_record(content, sweep / STEERED_FILE)
            stopped = {
                str(name): StoppedTrial(str(one["reason"]), {key: float(n) for key, n in one["numbers"].items()})
                for name, one in tree["stopped"].items()
            }
            searcher = None if tree["searcher"] is None else str(tree["searcher"])
            return cls(stopped, searcher, [str(name) for name in tree["asked"]], int(tree["room"]))
        except (KeyError, TypeError, ValueError, AttributeError, DmsaeError):
            raise DataError(f"{sweep / STEERED_FILE} is damaged; delete it to let all trials go on") from None

    def go_on(self, finished: Sequence[str], *, stops: bool, searcher: str | None, samples: int = 0) -> None:
        """Prepare for another run, in which perhaps nothing stops trials, or no searcher chooses them.

        Args:
            finished: Trials that are finished.
            stops: Whether a scheduler stops trials; if none does, those that one had stopped go on.
            searcher: What chooses trials; None if all are run.
            samples: How many trials the searcher may have in all.
        """
        if not stops:
            self.stopped = {}
        if searcher is None:
            self.asked = []
        elif self.searcher is None:
            self.asked = [*finished, *self.stopped]
        self.searcher = searcher
        self.room = 0 if searcher is None else max(0, samples - len(self.asked))

    def write(self, folders: Folders) -> None:
        """Write the record where workers read it, and where reports do; without content, remove it."""
        for place in (folders.shared, Folder(str(folders.sweep))):
            if self == Steered():
                place.delete(STEERED_FILE)
            else:
                place.write(STEERED_FILE, [json.dumps(asdict(self), indent=1).encode()])

    def reasons(self, trials: Sequence[str]) -> dict[str, str]:
        """Return why trials are not run, or not to their end: those of `trials` that are not.

        While the searcher may still ask, it is not known which it will leave out.
        """
        found: dict[str, str] = {}
        for name in trials:
            if name in self.stopped:
                found[name] = self.stopped[name].reason
            elif self.searcher is not None and not self.room and name not in self.asked:
                found[name] = f"{self.searcher} did not ask for it"
        return found


def grouped(reasons: Mapping[str, str]) -> list[str]:
    """Return a line for each trial, or for all that have the same reason."""
    trials: dict[str, list[str]] = {}
    for trial, reason in reasons.items():
        trials.setdefault(reason, []).append(trial)
    return [f"{names[0] if len(names) == 1 else many(len(names), 'trial')}: {why}" for why, names in trials.items()]
