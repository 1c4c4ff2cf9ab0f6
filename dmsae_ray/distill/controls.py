"""Control cores: what carryover looks like for rows that attribution did not select.

Frozen rows keep their norm, and the score grows with it. So row i of a control has the norm of row i of the core that
it is compared with. The one exception is "gaussian_unit": the paper does not say that its random core was matched.
"""

import logging
from typing import Literal, get_args

import torch
from torch import Tensor

from dmsae_ray.distill.core import Core
from dmsae_ray.distill.lineage import LineageId
from dmsae_ray.errors import ConfigError

log = logging.getLogger(__name__)

Control = Literal["gaussian", "gaussian_unit", "random_latents", "matched_frequency", "lowest_score", "most_frequent"]
CONTROLS: tuple[str, ...] = get_args(Control)
NEEDS_SAE: tuple[str, ...] = ("random_latents", "matched_frequency", "lowest_score", "most_frequent")


def check_controls(names: tuple[str, ...], setting: str = "controls") -> None:
    """Check the names of controls.

    Raises:
        ConfigError: a control is unknown or named twice; the message begins with `setting`.
    """
    for name in names:
        if name not in CONTROLS:
            raise ConfigError(f"{setting}: {name!r} is unknown; known are {', '.join(CONTROLS)}")
    if len(set(names)) != len(names):
        raise ConfigError(f"{setting}: {list(names)} names one twice")


def match_norms(rows: Tensor, reference: Tensor) -> Tensor:
    """Return `rows` scaled so that row i has the norm of row i of `reference`.

    Args:
        rows: [c, d].
        reference: [c, d].

    Returns:
        float32 [c, d], computed in float64.

    Raises:
        ConfigError: a row has norm 0.
    """
    wide = rows.to(torch.float64)
    norms = wide.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ConfigError("controls: a row of norm 0 cannot be given another norm")
    matched: Tensor = wide / norms * reference.to(torch.float64).norm(dim=1, keepdim=True)
    return matched.to(torch.float32)


def gaussian_core(core: Core, seed: int) -> Core:
    """Return a core of Gaussian rows with the norms of `core`'s rows: directions are uniform on the sphere."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(core.rows.shape, generator=generator, dtype=torch.float64)
    return _control("gaussian", rows, core, seed, None)


def unit_core(core: Core, seed: int) -> Core:
    """Return a core of the directions of `gaussian_core` with norm 1, which fresh encoder rows begin with."""
    control = gaussian_core(core, seed)
    rows = torch.nn.functional.normalize(control.rows.double(), dim=1).float()
    return Core(rows, control.lineage, {**control.provenance, "control": "gaussian_unit"})


def random_core(name: str, core: Core, seed: int) -> Core:
    """Return the control "gaussian" or "gaussian_unit" of a core.

    Raises:
        ConfigError: the control is another one, of latents.
    """
    if name not in ("gaussian", "gaussian_unit"):
        raise ConfigError(f"controls: {name!r} is not of random rows")
    return unit_core(core, seed) if name == "gaussian_unit" else gaussian_core(core, seed)


def latent_core(
    name: str, core: Core, w_enc: Tensor, scores: Tensor, frequency: Tensor, selected: Tensor, seed: int
) -> Core | None:
    """Return a core of other latents of the SAE that `core` was selected from, with the norms of `core`'s rows.

    All come from the pool, in which `core` was selected: most of the other latents are rare, and no rival to it.
    "lowest_score" and "most_frequent" may overlap with `core`, because they are other rules on the same candidates;
    ties go to the lower index.

    Args:
        name: "random_latents" (drawn at random from the pool without `core`), "matched_frequency" (of the pool without
            `core`, one for each latent of `core`, so that the frequencies are as near as can be, as ratios),
            "lowest_score" (the lowest scores of the pool) or "most_frequent" (those of the pool that fire most often).
        core: the core that the control is compared with.
        w_enc: [m, d], encoder rows of the SAE.
        scores: [pool], scores of the SAE.
        frequency: [m], firing frequency of its latents.
        selected: int64 [c], the latents of `core` in the SAE.
        seed: seed of the draw.

    Returns:
        The control, or None if there are fewer candidates than rows of `core`.

    Raises:
        ConfigError: the control is unknown.
    """
    pool = len(scores)
    usable = (w_enc[:pool].norm(dim=1) > 0).cpu()
    if name in ("random_latents", "matched_frequency"):
        usable[selected] = False
        candidates = usable.nonzero().flatten()
        generator = torch.Generator().manual_seed(seed)
        order = candidates[torch.randperm(len(candidates), generator=generator)]
        if name == "matched_frequency" and len(order) >= len(core):
            order = order[nearest_frequencies(frequency[selected], frequency[order])]
    elif name in ("lowest_score", "most_frequent"):
        candidates = usable.nonzero().flatten()
        value = scores.double().cpu() if name == "lowest_score" else -frequency.double().cpu()
        order = candidates[torch.argsort(value[candidates], stable=True)]
    else:
        raise ConfigError(f"controls: {name!r} is unknown; known are {', '.join(CONTROLS)}")
    if len(order) < len(core):
        log.warning("control %s: %d candidates for a core of %d; it is left out", name, len(order), len(core))
        return None
    order = order[: len(core)]
    return _control(name, w_enc.detach().cpu()[order], core, seed, order.tolist())


def nearest_frequencies(wanted: Tensor, offered: Tensor) -> Tensor:
    """Return which of the frequencies `offered` [n] stand for those `wanted` [c <= n], one to one: int64 [c].

    The sum of |log(wanted / offered)| is the least that there is. Latents that never fire count as ten times rarer than
    the rarest that does.
    """
    from scipy.optimize import linear_sum_assignment  # here: each worker of a trial would wait for it

    known = torch.cat([wanted, offered]).double()
    floor = float(known[known > 0].min()) / 10 if bool((known > 0).any()) else 1.0
    a, b = (t.double().cpu().clamp_min(floor).log() for t in (wanted, offered))
    _, columns = linear_sum_assignment((a[:, None] - b[None, :]).abs().numpy())
    return torch.from_numpy(columns)


def _control(name: str, rows: Tensor, core: Core, seed: int, indices: list[int] | None) -> Core:
    ids = tuple(LineageId(0, row) for row in range(len(core)))
    provenance = {"control": name, "seed": seed, "latents": indices}
    return Core(match_norms(rows, core.rows), ids, provenance)
