"""A core: the encoder rows that one cycle passes to the next, their identity, and where they come from.

A core is saved as one file.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from dmsae_ray.distill.core_place import core_file, fetch_core
from dmsae_ray.distill.lineage import Lineage, LineageId, Origin, Origins, persistent
from dmsae_ray.errors import ConfigError, DataError, one_line
from dmsae_ray.files import hub_place, replacing

FORMAT = "dmsae-core-1"


@dataclass(frozen=True, eq=False)
class Core:
    """Encoder rows with their identity.

    Attributes:
        rows: [c, d] float32 on the CPU, the encoder rows, by descending score.
        lineage: the lineage id of each row.
        provenance: where the core comes from, JSON-serialisable.
        origins: the training that learned each row; None where it is not known, and () where none is known.

    Raises:
        DataError: the number of ids or origins is not the number of rows, or two rows have the same id.
    """

    rows: Tensor
    lineage: Lineage
    provenance: dict[str, Any] = field(default_factory=dict)
    origins: Origins = ()

    def __post_init__(self) -> None:
        rows = self.rows.detach().to(device="cpu", dtype=torch.float32).contiguous()
        if rows.ndim != 2 or len(self.lineage) != len(rows):
            raise DataError(f"core: rows {tuple(rows.shape)} and {len(self.lineage)} ids do not belong together")
        if len(set(self.lineage)) != len(self.lineage):
            raise DataError("core: two rows have the same lineage id")
        if self.origins and len(self.origins) != len(rows):
            raise DataError(f"core: {len(self.origins)} origins of {len(rows)} rows")
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "origins", self.origins or (None,) * len(rows))
        object.__setattr__(self, "lineage", tuple(LineageId(*i) for i in self.lineage))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d_model(self) -> int:
        """Width of the residual stream that the rows read."""
        return self.rows.shape[1]

    @property
    def trainings(self) -> int | None:
        """Trainings that made a distilled core, cycle 0 included; None where its file does not say it."""
        made = self.provenance.get("distilled_from_cores")
        return made if isinstance(made, int) and "control" not in self.provenance else None

    def to_bytes(self) -> bytes:
        """Return the content of a core file."""
        header = {
            "format": FORMAT,
            "lineage": json.dumps([list(i) for i in self.lineage]),
            "provenance": json.dumps(self.provenance, sort_keys=True),
            "origins": json.dumps([None if o is None else list(o) for o in self.origins]),
        }
        return to_safetensors({"rows": self.rows}, metadata=header)

    def subset(self, ids: Lineage, **provenance: Any) -> "Core":
        """Return a core of the rows of `ids`, in that order; `provenance` is added to its provenance."""
        place = {i: n for n, i in enumerate(self.lineage)}
        places = [place[i] for i in ids]
        index = torch.tensor(places, dtype=torch.int64)
        origins = tuple(self.origins[n] for n in places)
        return Core(self.rows[index], ids, {**self.provenance, **provenance}, origins)

    def borne_by(self, seed: int, since: int = 0) -> bool:
        """Return whether a trial of this seed learned a row of the core.

        A fresh SAE of that seed begins with the directions from which the row was learned.

        Args:
            seed: seed of the trial.
            since: ask only for rows that were learned in this cycle or a later one.
        """
        late = [i.cycle >= since for i in self.lineage]
        bearing = self.provenance.get("bearing_seeds")
        if bearing is not None:
            own = (o is not None and bearing.get(o.key) == seed for o in self.origins)
            return any(a and b for a, b in zip(own, late, strict=True))
        # A file of version 0.1.0 says the seed of its trial alone; a control's seed is another thing.
        return any(late) and "control" not in self.provenance and self.provenance.get("seed") == seed

    def as_origin(self) -> "Core":
        """Return the same rows as the core of cycle 0 of a new run: ids are (0, row), old ids are in the provenance.

        Otherwise a run that begins from a core of another run would take its own new latents for the older ones of that
        run.
        """
        old = [list(i) for i in self.lineage]
        ids = tuple(LineageId(0, row) for row in range(len(self)))
        return Core(self.rows, ids, {**self.provenance, "origin_lineage": old}, self.origins)


def empty_core(d_model: int) -> Core:
    """Return a core without latents."""
    return Core(torch.empty(0, d_model), ())


def distilled_core(cores: list[Core], min_cycles: int | None = None) -> Core:
    """Return C* (Eq. 8) of C_0..C_L: the latents of the last core that were selected in every cycle.

    Args:
        cores: C_0..C_L.
        min_cycles: n, to ask for the last n cycles instead of every cycle; None: every cycle.

    Raises:
        ConfigError: there are no cores.
    """
    if not cores:
        raise ConfigError("cores: none were selected, so there is nothing to distil")
    ids = persistent([core.lineage for core in cores], min_cycles)
    return cores[-1].subset(ids, distilled_from_cores=len(cores), min_cycles=min_cycles)


def save_core(core: Core, path: str | os.PathLike[str]) -> None:
    """Write `core` to a safetensors file, atomically; lineage and provenance are JSON in its header."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(core.to_bytes())


def load_core(place: str | os.PathLike[str], d_model: int | None = None) -> Core:
    """Return the core at a place.

    Args:
        place: a file, a folder that holds core.safetensors, or a place on the Hub: user/repo[@revision] for its
            core.safetensors, with a path behind it for that of a folder, or for a file. A `Path` is never on the Hub.
        d_model: width that the rows must have; None: any.

    Raises:
        ConfigError: the Hub has no such core for this login.
        DataError: the file is missing, truncated or not a core file, has another width, or holds values that are not
            finite; or the Hub cannot be reached.
        TransientError: the Hub does not answer.
    """
    on_hub = hub_place(place) if isinstance(place, str) else None
    if on_hub is None:
        path = core_file(place)
    else:
        found = fetch_core(on_hub, f"core: '{place}'")
        path = found.folder / found.names[0]
    if not path.is_file():
        raise DataError(f"core: no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise DataError(
                    f"core: {path} is not a core file (format {header.get('format')!r:.40}, needed {FORMAT!r})"
                )
            rows = file.get_tensor("rows")
        if not rows.is_floating_point():
            raise ValueError(f"rows are {rows.dtype}, must be floating point")
        rows = rows.float()
        lineage = tuple(LineageId(*map(int, i)) for i in json.loads(header["lineage"]))
        provenance = json.loads(header["provenance"])
        origins = tuple(None if o is None else Origin(*o) for o in json.loads(header.get("origins", "[]")))
        if not isinstance(provenance, dict) or not isinstance(provenance.get("bearing_seeds", {}), dict):
            raise ValueError("its provenance is not an object")
        if not all(o is None or (isinstance(o.key, str) and isinstance(o.latent, int)) for o in origins):
            raise ValueError("its origins are not pairs of a key and a latent")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise DataError(f"core: {path} is truncated or not a core file ({one_line(error)})") from None
    if d_model is not None and rows.ndim == 2 and rows.shape[1] != d_model:
        raise DataError(f"core: {path} has rows of width {rows.shape[1]}, the model needs {d_model}")
    if not torch.isfinite(rows).all():
        raise DataError(f"core: {path} holds values that are not finite")
    return Core(rows, lineage, provenance, origins)
