"""What a direction of the residual stream does to the logits if nothing but the final norm lies between: "logit lens".

All blocks above are left out, so the result is an approximation; it is the better, the later the layer.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm.architecture import parts_of
from dmsae_ray.lm.description import read_config
from dmsae_ray.lm.loading import load_weights

_CHUNK_BYTES = 1 << 28
"""Float32 weights, and logits, at a time."""


class Unembedding:
    """The final norm of a model and its output embedding.

    Args:
        model: a causal language model of transformers; its blocks are not used.

    Attributes:
        vocab_size: rows of the output embedding; there may be more than the tokenizer has tokens.
        d_model: width of the residual stream.
    """

    def __init__(self, model: Any) -> None:
        decoder: Any = parts_of(model).decoder
        norms = [child for child in decoder.children() if "norm" in type(child).__name__.lower()]
        # A norm of the embeddings would come before the final one. Small, so in float32 whatever the model's dtype.
        self._norm: nn.Module = copy.deepcopy(norms[-1]).float() if norms else nn.Identity()
        project = getattr(decoder, "project_out", None)
        self._project: nn.Module | None = None if project is None else copy.deepcopy(project).float()
        self._weight: Tensor = model.get_output_embeddings().weight.detach()
        self.vocab_size = len(self._weight)
        self.d_model = int(model.config.get_text_config().hidden_size)

    @torch.no_grad()
    def through_norm(self, directions: Tensor) -> Tensor:
        """Return what the final norm makes of directions [n, d], apart from the scale of the stream: float32 [n, d].

        For RMSNorm this is direction * gain (gain = weight, or 1 + weight in Gemma), for LayerNorm (direction - its
        mean) * gain. The norm itself is asked, so that no architecture's formula stands here: its bias is what N(v) and
        N(-v) have in common, and the length, which it takes away, is put back.
        """
        v = directions.float()
        size = v.square().mean(dim=1, keepdim=True).sqrt()
        if isinstance(self._norm, nn.Identity):
            return v if self._project is None else self._project(v)
        probe = 1e3 * torch.randn(1, v.shape[1], generator=torch.Generator().manual_seed(0))
        if torch.allclose(self._norm(probe), self._norm(probe + 1e3), rtol=1e-3, atol=1e-3):
            size = v.std(dim=1, correction=0, keepdim=True)  # a LayerNorm, which leaves out the mean
        unit = 1e3 * v / size.clamp(min=1e-30)  # long, so that the norm's epsilon is nothing beside it
        out: Tensor = (self._norm(unit) - self._norm(-unit)) / 2 * size
        return out if self._project is None else self._project(out)

    @torch.no_grad()
    def extremes(self, directions: Tensor, most: int, tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the tokens whose logits directions [n, d] raise and lower most, by their change per unit of length.

        The change is in units of 1 / RMS of the final stream: its order is exact within this approximation, its size is
        not in nats.

        Args:
            directions: [n, d].
            most: tokens of each kind.
            tokens: use the first so many rows of the output embedding; None: all.

        Returns:
            int64 ids and float32 changes, each [n, 2 most]: the raised ones from the largest on, then the lowered
            ones from the smallest on.

        Raises:
            ConfigError: the directions have another width.
        """
        if directions.shape[1] != self.d_model:
            raise ConfigError(f"directions have width {directions.shape[1]}, the model's stream {self.d_model}")
        ready, n = self.through_norm(directions), len(directions)
        total = min(self.vocab_size, tokens or self.vocab_size)
        most = min(most, total)
        values = torch.empty(n, 0), torch.empty(n, 0)
        ids = torch.empty(n, 0, dtype=torch.int64), torch.empty(n, 0, dtype=torch.int64)
        for first, weight in self._chunks(total, n):
            change = ready @ weight.T
            names = torch.arange(first, first + len(weight)).expand(n, -1)
            both = [
                _extreme(torch.cat([v, change], 1), torch.cat([i, names], 1), most, largest=side)
                for v, i, side in zip(values, ids, (True, False), strict=True)
            ]
            values, ids = (both[0][0], both[1][0]), (both[0][1], both[1][1])
        return torch.cat(ids, dim=1), torch.cat(values, dim=1)

    def _chunks(self, total: int, n: int) -> Iterator[tuple[int, Tensor]]:
        step = max(1, _CHUNK_BYTES // (4 * max(self._weight.shape[1], n, 1)))
        for first in range(0, total, step):
            yield first, self._weight[first : min(first + step, total)].float()


def _extreme(values: Tensor, ids: Tensor, most: int, *, largest: bool) -> tuple[Tensor, Tensor]:
    """Return the `most` extreme values of each row, with their ids, the most extreme first."""
    found, order = values.topk(most, dim=1, largest=largest)
    return found, ids.gather(1, order)


def load_unembedding(model: str, revision: str | None = None, *, local_only: bool = False) -> Unembedding:
    """Load the final norm and the output embedding of a model; of its blocks one is read, the others are not.

    Args:
        model: 'tiny', a Hub id, or a local folder.
        revision: commit or tag on the Hub.
        local_only: take it from the Hub's cache on this machine, and never from the network.

    Raises:
        ConfigError: the model is unknown or incomplete.
    """
    config: Any = read_config(model, revision, local_only=local_only)
    stored = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    dtype = stored if isinstance(stored, torch.dtype) else torch.float32
    return Unembedding(load_weights(model, revision, config, dtype, last_layer=0, local_only=local_only))
