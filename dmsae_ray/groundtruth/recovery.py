"""How well a set of latents recovers the features that matter, when the features are known."""

from dataclasses import asdict, dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dmsae_ray.distill import cosines
from dmsae_ray.errors import DataError

IMPORTANT_SHARE = 0.9
"""The important features are the fewest that hold this share of the importance."""


@dataclass(frozen=True)
class Latents:
    """Some latents of an SAE.

    Attributes:
        encoder: [n, d_model], their encoder rows.
        decoder: [n, d_model], their decoder rows.
        frequency: mean share of the tokens at which they fire; NaN without latents.
    """

    encoder: Tensor
    decoder: Tensor
    frequency: float


@dataclass(frozen=True)
class Recovery:
    """What a set of n latents recovers.

    A latent *recovers* a feature if their cosine is at or above a limit; latents and features are matched one to one
    (Hungarian), so that two latents of one feature count once.

    Attributes:
        size: n.
        importance: share of all importance that the features hold which decoder rows recover.
        importance_encoder: the same by encoder rows.
        recall: share of the n most important features that decoder rows recover.
        precision: share of the n latents whose decoder row recovers an important feature.
        purity: share of the decoder rows with a cosine at or above the limit to any feature.
        purity_encoder: the same of the encoder rows.
        frequency: mean share of the tokens at which the latents fire.
    """

    size: int
    importance: float
    importance_encoder: float
    recall: float
    precision: float
    purity: float
    purity_encoder: float
    frequency: float

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass(frozen=True)
class Truth:
    """Known features and how much each matters.

    Attributes:
        features: [F, d_model].
        importance: float64 [F], >= 0.
        decoder_limit: cosine at which a decoder row recovers a feature.
        encoder_limit: cosine at which an encoder row does; in superposition an encoder row must also lean away from
            other features, so the limit is lower.

    Raises:
        DataError: no feature matters.
    """

    features: Tensor
    importance: Tensor
    decoder_limit: float = 0.9
    encoder_limit: float = 0.7

    def __post_init__(self) -> None:
        if not float(self.importance.sum()) > 0:
            raise DataError("groundtruth: no feature of the world matters to its loss; there is nothing to find")

    @property
    def important(self) -> set[int]:
        """The fewest features that hold `IMPORTANT_SHARE` of the importance."""
        value, order = self.importance.sort(descending=True, stable=True)
        count = int((value.cumsum(0) < IMPORTANT_SHARE * value.sum()).sum()) + 1
        return set(order[:count].tolist())

    def recovery(self, latents: Latents) -> Recovery | None:
        """Return what latents recover; None without latents."""
        n = len(latents.decoder)
        if n == 0:
            return None
        decoder, encoder = (cosines(rows, self.features) for rows in (latents.decoder, latents.encoder))
        found, by_encoder = matched(decoder, self.decoder_limit), matched(encoder, self.encoder_limit)
        best = set(self.importance.argsort(descending=True, stable=True)[:n].tolist())
        return Recovery(
            size=n,
            importance=self._share(found),
            importance_encoder=self._share(by_encoder),
            recall=len(best & found) / n,
            precision=len(self.important & found) / n,
            purity=float((decoder.amax(dim=1) >= self.decoder_limit).double().mean()),
            purity_encoder=float((encoder.amax(dim=1) >= self.encoder_limit).double().mean()),
            frequency=latents.frequency,
        )

    def of_latents(self, decoder: Tensor) -> Tensor:
        """Return the importance of the feature nearest to each decoder row [n, d_model], 0 where none is near."""
        cosine, feature = cosines(decoder, self.features).max(dim=1)
        return torch.where(cosine >= self.decoder_limit, self.importance[feature], 0.0)

    def _share(self, found: set[int]) -> float:
        return float(self.importance[sorted(found)].sum() / self.importance.sum())


def matched(cosine: Tensor, limit: float) -> set[int]:
    """Return the features of a one-to-one matching, of those pairs whose cosine [n, F] is at or above a limit."""
    near = torch.where(cosine >= limit, cosine, 0.0).numpy()
    rows, columns = linear_sum_assignment(-near)
    return {int(column) for row, column in zip(rows, columns, strict=True) if near[row, column] > 0}
