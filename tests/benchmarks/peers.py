"""One training step of ours and of each peer, behind one signature; peers are optional.

On CUDA each peer computes as its own training scripts do: weights in float32, bfloat16 by autocast.

pip install --no-deps dictionary-learning==0.1.0 einops sae-lens==6.54.0 simple-parsing docstring-parser
    typing-extensions

is enough: what they import for language models and logging, and never use in a step, is replaced by empty modules
where it is not installed.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.trainer import SAETrainer

Step = Callable[[int, Tensor], Any]
FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
_UNUSED = ("transformer_lens", "nnsight", "wandb", "plotly", "datasets", "babe", "nltk", "zstandard")


@dataclass(frozen=True)
class Shape:
    """d, m, k, batch, and the number of groups (5: SAEBench's fractions; otherwise equal parts)."""

    d: int
    m: int
    k: int
    batch: int
    groups: int = 5

    @property
    def group_sizes(self) -> list[int]:
        fractions = FRACTIONS if self.groups == 5 else (1 / self.groups,) * self.groups
        sizes = [int(f * self.m) for f in fractions[:-1]]
        return [*sizes, self.m - sum(sizes)]


def batches(shape: Shape, device: str = "cpu", count: int = 4) -> list[Tensor]:
    """Sparse mixtures of 4 d directions, of mean squared norm about 1."""
    g = torch.Generator(device).manual_seed(0)
    n = 4 * shape.d

    def random(rows: int, columns: int) -> Tensor:
        return torch.rand(rows, columns, generator=g, device=device)

    directions = torch.randn(n, shape.d, generator=g, device=device) / shape.d**0.5
    on = [(random(shape.batch, n) < 0.03) * random(shape.batch, n) for _ in range(count)]
    made = [x @ directions for x in on]
    return [x / x.square().sum(1).mean().sqrt() for x in made]


def ours(shape: Shape, device: str = "cpu") -> Step:
    sae = MatryoshkaSAE(shape.d, shape.m, shape.group_sizes, shape.k).to(device)
    trainer = SAETrainer(sae, Recipe(steps=100_000, warmup_steps=10, threshold_start_step=0))
    return lambda _, x: trainer.step(x)


def dictionary_learning(shape: Shape, device: str = "cpu") -> Step:
    with empty_modules():
        module = importlib.import_module("dictionary_learning.trainers.matryoshka_batch_top_k")
    trainer = module.MatryoshkaBatchTopKTrainer(
        steps=100_000,
        activation_dim=shape.d,
        dict_size=shape.m,
        k=shape.k,
        layer=0,
        lm_name="none",
        group_fractions=[size / shape.m for size in shape.group_sizes],
        lr=3e-4,
        warmup_steps=10,
        decay_start=80_000,
        threshold_start_step=0,
        seed=0,
        device=device,
    )

    def step(step: int, x: Tensor) -> Any:
        with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
            return trainer.update(step, x.clone())

    return step


def sae_lens(shape: Shape, device: str = "cpu") -> Step:
    with empty_modules():
        peer = importlib.import_module("sae_lens.saes.matryoshka_batchtopk_sae")
        training = importlib.import_module("sae_lens.training.sae_trainer")
        config = importlib.import_module("sae_lens.config")
    widths = torch.tensor(shape.group_sizes).cumsum(0).tolist()
    sae = peer.MatryoshkaBatchTopKTrainingSAE(
        peer.MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=shape.d, d_sae=shape.m, k=shape.k, matryoshka_widths=widths, device=device
        )
    )
    settings = config.SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=shape.batch,
        lr_end=3e-4,
        device=device,
        autocast=device != "cpu",
    )
    trainer = training.SAETrainer(settings, sae, iter(()))

    def step(_: int, x: Tensor) -> Any:
        out = trainer.step(x)
        trainer.n_training_steps += 1
        return out

    return step


PEERS: dict[str, Callable[[Shape, str], Step]] = {"dictionary_learning": dictionary_learning, "sae_lens": sae_lens}


class EmptyModule(ModuleType):
    """Whatever is asked of it is a class that does nothing."""

    __path__: Sequence[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # TransformerLens's hook points pass activations on; with no hook set that is all they do.
        return type(name, (torch.nn.Module,), {"setup": lambda self: None, "forward": lambda self, x: x})


class empty_modules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """While this is entered, modules of `_UNUSED` that are not installed import as empty ones."""

    def __enter__(self) -> None:
        sys.meta_path.append(self)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] in _UNUSED:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None
