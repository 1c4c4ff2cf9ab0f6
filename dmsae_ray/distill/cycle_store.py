"""Finished cycles on disk, found by key: what is trained once is not trained again."""

import hashlib
import json
import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import load_file, save_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from dmsae_ray.distill.reports import WindowReport
from dmsae_ray.distill.trained_cycle import Health, TrainedCycle
from dmsae_ray.errors import DataError, one_line
from dmsae_ray.files import replacing
from dmsae_ray.sae import load_sae, save_sae

ABANDONED_SECONDS = 24 * 3600.0
"""A half-written result that was not changed for so long was left by a killed process."""


class CycleStore(Protocol):
    """Finished cycles by key (cycle_settings.cycle_key). Only the first rank of a trial calls it."""

    def load(self, key: str) -> TrainedCycle | None:
        """Return the cycle of `key`, or None."""

    def save(self, key: str, cycle: TrainedCycle) -> None:
        """Keep `cycle` under `key`; afterwards it is there in full or not at all."""

    def load_scores(self, key: str, scoring: dict[str, Any]) -> Tensor | None:
        """Return the scores of the cycle of `key` by another scoring than its first; None if it was not made."""

    def save_scores(self, key: str, scoring: dict[str, Any], scores: Tensor) -> None:
        """Keep scores of the cycle of `key`, which is there, by another scoring."""


class OtherTrainings(Protocol):
    """What other processes that share the store train now; used by the first rank, for one cycle at a time."""

    def begin(self, key: str, *, wait: bool) -> bool:
        """Tell them that the cycle of `key` is trained here; return False, within seconds, if one of them trains it.

        Args:
            key: key of the cycle.
            wait: False tells them whatever they do: a training that goes on from a checkpoint waits for nobody.
        """

    def progress(self) -> None:
        """Tell them that the training gets on."""

    def end(self) -> None:
        """Tell them that the training has ended, well or not; nothing if none had begun."""


def scores_file(scoring: dict[str, Any]) -> str:
    """Return the name of the file, in the folder of a cycle, with its scores by another scoring than its first."""
    return f"scores-{hashlib.sha256(json.dumps(scoring, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"


def scores_to_bytes(scoring: dict[str, Any], scores: Tensor) -> bytes:
    """Return the content of such a file."""
    return to_safetensors({"scores": scores.contiguous()}, metadata={"scoring": json.dumps(scoring, sort_keys=True)})


def scores_from_bytes(content: bytes, where: object) -> Tensor:
    """Return the scores in such a file.

    Raises:
        DataError: it is damaged; the message names it.
    """
    try:
        return from_safetensors(content)["scores"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"scores: {where} is damaged ({one_line(error)}); delete it to score again") from None


class DirectoryCycleStore:
    """A folder with one folder per key: sae/ (format of sae.save_sae), tensors.safetensors and outcome.json.

    Scores by another scoring than the first are in files of their own beside them. Each is written under another name
    and then renamed. Two trials that want the same key at the same time both train it, and the first result is kept.

    Attributes:
        root: the folder.
        about: what is noted with every SAE.
    """

    def __init__(self, root: str | os.PathLike[str], about: dict[str, Any] | None = None) -> None:
        """Use `root`; `about` is noted with every SAE, for example where its activations come from."""
        self.root, self.about = Path(root), about

    def folder(self, key: str) -> Path:
        """Return the folder in which the cycle of `key` is, or would be."""
        return self.root / key

    def load(self, key: str) -> TrainedCycle | None:
        """Return the cycle of `key`; None if it was never finished.

        Raises:
            DataError: its files are damaged.
        """
        folder = self.folder(key)
        if not folder.is_dir():
            return None
        try:
            fields = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "tensors.safetensors")
            return TrainedCycle(
                sae=load_sae(folder / "sae"),
                scores=tensors["scores"],
                frequency=tensors["frequency"],
                health=Health(**fields.pop("health")),
                windows=tuple(WindowReport(**w) for w in fields.pop("windows")),
                **fields,
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, DataError) as error:
            raise DataError(
                f"cycle: {folder} is damaged ({one_line(str(error))}); delete it to train the cycle again"
            ) from None

    def save(self, key: str, cycle: TrainedCycle) -> None:
        """Keep `cycle` under `key`; an earlier result stays, unless it was not evaluated and this one is."""
        self._sweep(key)
        aside = self.root / f".{key[:16]}-{uuid.uuid4().hex}"
        aside.mkdir(parents=True)
        try:
            save_sae(cycle.sae, aside / "sae", self.about)
            tensors = {"scores": cycle.scores.contiguous(), "frequency": cycle.frequency.contiguous()}
            save_file(tensors, aside / "tensors.safetensors")
            names = ("metrics", "tokens", "flops", "seconds", "scoring", "evaluated")
            fields = {name: getattr(cycle, name) for name in names}
            fields["health"] = asdict(cycle.health)
            fields["windows"] = [asdict(w) for w in cycle.windows]
            (aside / "outcome.json").write_text(json.dumps(fields), encoding="utf-8")
            self._publish(aside, self.folder(key), evaluated=cycle.evaluated)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def load_scores(self, key: str, scoring: dict[str, Any]) -> Tensor | None:
        """See `CycleStore`.

        Raises:
            DataError: the file is damaged.
        """
        path = self.folder(key) / scores_file(scoring)
        return scores_from_bytes(path.read_bytes(), path) if path.is_file() else None

    def save_scores(self, key: str, scoring: dict[str, Any], scores: Tensor) -> None:
        """See `CycleStore`."""
        with replacing(self.folder(key) / scores_file(scoring)) as temporary:
            temporary.write_bytes(scores_to_bytes(scoring, scores))

    def _publish(self, aside: Path, final: Path, *, evaluated: bool) -> None:
        replaced = aside / "replaced"
        if (
            evaluated
            and final.is_dir()
            and not json.loads((final / "outcome.json").read_text(encoding="utf-8"))["evaluated"]
        ):
            os.rename(final, replaced)
        try:
            os.rename(aside, final)
        except OSError:
            if not final.is_dir():
                if replaced.is_dir():
                    os.rename(replaced, final)
                raise
            # Another trial finished the same cycle first; its result is the same.
            return
        shutil.rmtree(final / "replaced", ignore_errors=True)

    def _sweep(self, key: str) -> None:
        """Remove half-written results of this key that a killed process left, once they are old enough."""
        for left in self.root.glob(f".{key[:16]}-*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(left)
