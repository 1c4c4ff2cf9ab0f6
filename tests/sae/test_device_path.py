"""What a step does on CUDA, without one: the CPU's numbers, no read by the host, memory as promised."""

import io
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dmsae_ray.sae import auxk, by_matrix, objective, selection
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.trainer import SAETrainer

from .test_gradients import hand_gradients, situations
from .worlds import PretendSeveral, as_on_cuda, features, make_sae, recipe

OPTIONS = [{}, {"n_core": 7}, {"n_core": 7, "core_sparsity": "sparse"}]


@contextmanager
def matrix_above(share: float) -> Iterator[None]:
    before, by_matrix.ON_CPU = by_matrix.ON_CPU, share
    try:
        yield
    finally:
        by_matrix.ON_CPU = before


@settings(max_examples=150, deadline=None)
@given(situations())
def test_the_matrix_gives_the_gradients_of_the_triples(situation: Any) -> None:
    sae, x, how, silent = situation
    with matrix_above(torch.inf):
        by_triples, loss, _ = hand_gradients(sae, x, how, silent)
    with matrix_above(-1.0):
        as_matrix, same_loss, _ = hand_gradients(sae, x, how, silent)
    assert torch.allclose(loss, same_loss, rtol=1e-12)
    for name, gradient in by_triples.items():
        assert torch.allclose(gradient, as_matrix[name], rtol=1e-10, atol=1e-13), name


@pytest.mark.parametrize("share", [torch.inf, -1.0], ids=["triples", "matrix"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_thirty_steps_as_on_cuda_are_those_of_the_cpu(
    options: dict[str, Any], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = SAETrainer(make_sae(**options), recipe()), as_on_cuda(SAETrainer(make_sae(**options), recipe()))
    aux_steps = 0
    for step in range(30):
        x = features(48, 12, step) - (50.0 if step == 20 else 0.0)  # in step 20 less than B * k fire
        a = here.step(x).floats()
        with matrix_above(share), monkeypatch.context() as patch:
            # Blocks of a few latents and of a few rows.
            patch.setattr(selection, "_CUDA_BLOCK_ELEMENTS", 48 * 5)
            patch.setattr(auxk, "row_blocks", lambda rows, *_: [(i, min(i + 7, rows)) for i in range(0, rows, 7)])
            b = there.step(x).floats()
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
        aux_steps += a["aux_loss"] > 0
    assert aux_steps > 3
    for name, tensor in here.sae.state_dict().items():
        assert torch.allclose(tensor, there.sae.state_dict()[name], atol=1e-5), name


@pytest.mark.parametrize("stop", range(0, 30, 3))
def test_resuming_is_bit_identical_there_too(stop: int) -> None:
    """The bound on dead latents is part of the state: it decides the shape of products, and so their rounding."""
    straight, stopped, resumed = (as_on_cuda(SAETrainer(make_sae(n_core=7), recipe())) for _ in range(3))
    for step in range(stop):
        straight.step(features(48, 12, step))
        stopped.step(features(48, 12, step))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(stop, 34):
        bounds = [trainer._silence.state_dict()["bounds"] for trainer in (straight, resumed)]
        assert bounds[0] == bounds[1]
        assert straight.step(features(48, 12, step)).floats() == resumed.step(features(48, 12, step)).floats()
    for name, tensor in straight.sae.state_dict().items():
        assert torch.equal(tensor, resumed.sae.state_dict()[name]), name


@pytest.mark.parametrize("share", [torch.inf, -1.0], ids=["triples", "matrix"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bfloat16_factors_change_a_step_by_their_rounding_only(options: dict[str, Any], share: float) -> None:
    exact, rounded = (as_on_cuda(SAETrainer(make_sae(**options), recipe())) for _ in range(2))
    for part in (rounded._objective, rounded._objective._select):
        part._low = torch.bfloat16  # type: ignore[attr-defined]
    x = features(48, 12, 0)
    with matrix_above(share):
        a, b = exact.step(x), rounded.step(x)
    assert float(a.loss) == pytest.approx(float(b.loss), rel=0.01)
    assert float(a.grad_norm) == pytest.approx(float(b.grad_norm), rel=0.02)
    for name in ("W_dec", "b_enc", "b_dec"):
        assert getattr(rounded.sae, name).dtype == torch.float32
        error = (exact._gradients.named()[name] - rounded._gradients.named()[name]).norm()
        assert error < 0.05 * exact._gradients.named()[name].norm(), name


class _Sizes(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return out

    def _gone(self, which: int) -> None:
        self.now -= self._known.pop(which)


def _product(a: Tensor, b: Tensor, low: torch.dtype | None, *, out: Tensor | None = None) -> Tensor:
    """`product` in shapes and bytes: torch has no mm with out_dtype on the meta device."""
    if low is not None:
        a, b = a.to(low), b.to(low)
    return torch.empty(len(a), b.shape[1], device="meta") if out is None else out


@pytest.mark.parametrize("k", [4, 64])
def test_a_step_on_several_ranks_asks_the_device_nothing(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (objective, selection, auxk, by_matrix):
        monkeypatch.setattr(room, "product", _product)
    with torch.device("meta"):
        trainer = SAETrainer(make_sae(d=16, m=4096, groups=(96, 1000, 3000), k=k), recipe())
        x = torch.empty(40, 16)
    trainer._ranks = trainer._objective._ranks = trainer._objective._select._ranks = PretendSeveral()
    monkeypatch.setattr(trainer._silence, "_bound", lambda is_dead: 50)
    for _ in range(2):
        trainer.step(x, global_rows=80)


@pytest.mark.parametrize("dead", [0, 10_000])
@pytest.mark.parametrize("n_core", [0, 200])
@pytest.mark.parametrize(("batch", "k"), [(2048, 20), (2048, 80), (2048, 640), (8192, 80), (8192, 640)])
def test_a_step_of_the_papers_size_asks_the_device_nothing_and_fits(
    batch: int, k: int, n_core: int, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device: every read by the host (.item(), nonzero, a boolean index) is an error there.

    Peak of all tensors at most 1.3 times weights, gradients, two moments and one [B, m] in bfloat16.
    """
    d, m = 2304, 65_536
    for room in (objective, selection, auxk, by_matrix):
        monkeypatch.setattr(room, "product", _product)
    groups = [m // 32, m // 16, m // 8, m // 4, m // 2 + m // 32]
    with torch.device("meta"):
        core = torch.empty(n_core, d) if n_core else None
        sae = MatryoshkaSAE(d, m, groups, k, core=core)
        x = torch.empty(batch, d)
    with _Sizes() as sizes:
        sae = sae.to_empty(device="meta")
        trainer = SAETrainer(sae, Recipe(steps=10, threshold_start_step=0))
        # The one read there is: a bound that was computed two steps before.
        monkeypatch.setattr(trainer._silence, "_bound", lambda is_dead: dead)
        for _ in range(3):
            trainer.step(x)
    budget = 1.3 * (4 * 2 * m * d * 4 + batch * m * 2)
    assert 0.5 * budget < sizes.most < budget, f"{sizes.most / 2**20:.0f} MiB of {budget / 2**20:.0f}"
