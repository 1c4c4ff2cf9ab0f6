from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.evaluation import SplicedModel, Units, ablation
from dmsae_ray.sae.dictionary import MatryoshkaSAE

D, M, CLASSES = 6, 12, 5


class Summing:
    """A model of contexts: the loss of a token depends on all activations up to it."""

    def __init__(self, contexts: int, tokens: int, parts: int, keep: bool = False) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(contexts, tokens, D, generator=generator)
        self.labels = torch.randint(CLASSES, (contexts, tokens), generator=generator)
        self.unembed = torch.randn(D, CLASSES, generator=generator)
        self.keep = torch.rand(contexts, tokens, generator=generator) < 0.3 if keep else None
        self.parts, self.ran = parts, 0

    @property
    def targets(self) -> int:
        return self.labels.numel()

    def units(self) -> Iterator[Units]:
        for numbers in torch.arange(len(self.x)).split(self.parts):
            keep = None if self.keep is None else self.keep[numbers]
            yield Units(int(numbers[0]), self.x[numbers], keep)

    def losses(self, numbers: Tensor, x: Tensor) -> Tensor:
        self.ran += len(numbers)
        logits = (x.cumsum(dim=1) @ self.unembed).reshape(-1, CLASSES)
        labels = self.labels[numbers].reshape(-1)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return losses.reshape(len(numbers), -1).sum(dim=1)


@pytest.fixture
def sae() -> MatryoshkaSAE:
    """Latents fire at some tokens; the last never does."""
    made = MatryoshkaSAE(D, M, [4, 8], 2, seed=3)
    made.theta.fill_(0.8)
    with torch.no_grad():
        made.b_enc[-1] = -1e9
    return made


def by_the_definition(model: Summing, sae: MatryoshkaSAE) -> list[float]:
    """One whole run of the model for each latent, with its activation set to 0."""

    def mean_loss(z: Tensor) -> float:
        spliced = sae.decode(z)
        if model.keep is not None:
            spliced = torch.where(model.keep[..., None], model.x, spliced)
        return float(model.losses(torch.arange(len(model.x)), spliced).double().sum()) / model.targets

    z = sae.encode(model.x.reshape(-1, D)).reshape(*model.x.shape[:2], M)
    whole = mean_loss(z)
    found = []
    for i in range(M):
        without = z.clone()
        without[..., i] = 0
        found.append(mean_loss(without) - whole)
    return found


@pytest.mark.parametrize(("contexts", "tokens"), [(30, 1), (9, 4)])
@pytest.mark.parametrize("keep", [False, True])
def test_it_is_the_difference_of_two_runs_of_the_model(
    contexts: int, tokens: int, keep: bool, sae: MatryoshkaSAE
) -> None:
    model: SplicedModel = Summing(contexts, tokens, parts=4, keep=keep)
    assert isinstance(model, Summing)
    wanted = by_the_definition(model, sae)
    assert wanted[-1] == 0 and sum(abs(w) > 1e-3 for w in wanted) > M // 2
    found = ablation(model, sae, batch=7)
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)
    assert found[-1] == 0.0  # not a rounding error
    assert ablation(model, sae, start=2, stop=5).tolist() == pytest.approx(wanted[2:5], abs=1e-6)
    whole = ablation(Summing(contexts, tokens, parts=1000, keep=keep), sae)
    assert found.tolist() == pytest.approx(whole.tolist(), abs=1e-6)


def test_only_where_a_latent_fires_the_model_runs_again(sae: MatryoshkaSAE) -> None:
    model = Summing(50, 1, parts=20)
    fires = int((sae.encode(model.x.reshape(-1, D)) > 0).sum())
    assert 0 < fires < 50 * M / 2
    ablation(model, sae)
    assert model.ran == 50 + fires


def test_what_cannot_be_measured_is_refused(sae: MatryoshkaSAE) -> None:
    model = Summing(5, 1, parts=5)
    with pytest.raises(ConfigError, match=r"^latents: 3\.\.13 are not within 0\.\.12$"):
        ablation(model, sae, start=3, stop=13)
    with pytest.raises(ConfigError, match=r"^batch: 0 must be at least 1$"):
        ablation(model, sae, batch=0)
    model.unembed[:] = torch.nan
    with pytest.raises(DataError, match=r"^ablation: the loss of unit 0 is not finite$"):
        ablation(model, sae)
    model.labels = model.labels[:0]
    with pytest.raises(DataError, match="no targets"):
        ablation(model, sae)
