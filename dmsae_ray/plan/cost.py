"""What an experiment costs, by arithmetic alone: tokens, floating-point operations, bytes.

FLOPs of the language model are counted as Kaplan et al. 2020 (arXiv 2001.08361, section 2.1) do: 2 a matrix weight
and token forward, and as much again for the gradient with respect to the input; the weights are frozen, so their own
gradients cost nothing. Attention adds 4 * heads * head_dim a token and position attended to (half the context on
average; a sliding window would make it less).
"""

from dataclasses import dataclass

from dmsae_ray.config import Experiment
from dmsae_ray.distill import scoring_flops, training_flops
from dmsae_ray.plan.model_size import ModelSize

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
TOKEN_BYTES = 4
"""Bytes of a stored token id, and of a stored row's position."""


@dataclass(frozen=True)
class Flops:
    """FLOPs, by what they are spent on."""

    harvest: float
    """Activations of the tokens that are stored, and the attribution tokens' gradients."""
    training: float
    """SAE training and scoring."""
    evaluation: float
    """Loss recovered of every trained SAE."""
    streaming: float = 0.0
    """Activations of the training tokens in mode 'stream': again for every training, and every epoch of it."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.harvest + self.training + self.evaluation + self.streaming


def block_flops(size: ModelSize, context: int) -> float:
    """FLOPs a token of one block, forward."""
    return 2.0 * size.block_weights + attention_flops(size, context)


def attention_flops(size: ModelSize, context: int) -> float:
    """FLOPs a token of scores and mixing in one block, forward."""
    return 4.0 * size.heads * size.head_dim * (context + 1) / 2


def truncated_flops(size: ModelSize, layer: int, context: int) -> float:
    """FLOPs a token of the forward pass up to and including block `layer`."""
    return (layer + 1) * block_flops(size, context)


def forward_flops(size: ModelSize, context: int) -> float:
    """FLOPs a token of the whole forward pass, unembedding included."""
    return size.layers * block_flops(size, context) + 2.0 * size.vocab * size.hidden


def gradient_flops(size: ModelSize, layer: int, context: int) -> float:
    """FLOPs a token of dCE/dx behind block `layer`: a forward pass, and back through what lies above.

    Scores and mixing have two inputs each, so their backward pass costs twice their forward pass.
    """
    back = 2.0 * size.block_weights + 2.0 * attention_flops(size, context)
    return forward_flops(size, context) + (size.layers - layer - 1) * back + 2.0 * size.vocab * size.hidden


def experiment_flops(experiment: Experiment, size: ModelSize, trainings: int) -> Flops:
    """FLOPs of harvesting and of training (and evaluating) `trainings` SAEs."""
    corpus, sae, layer = experiment.corpus, experiment.sae, experiment.model.layer
    truncated = truncated_flops(size, layer, corpus.context)
    harvest = (stored_tokens(experiment) + corpus.eval_tokens) * truncated
    harvest += corpus.attribution_tokens * gradient_flops(size, layer, corpus.context)
    pool = sum(sae.groups[: experiment.distill.pool_groups])
    tokens = experiment.recipe.steps * experiment.recipe.batch_size
    one = training_flops(size.hidden, sae.n_latents, tokens)
    one += scoring_flops(size.hidden, sae.n_latents, pool, corpus.attribution_tokens)
    # Clean, spliced and zero-ablated passes.
    evaluation = 3 * corpus.eval_tokens * forward_flops(size, corpus.context)
    streaming = trainings * tokens * truncated if experiment.activations.mode == "stream" else 0.0
    return Flops(harvest, trainings * one, trainings * evaluation, streaming)


def stored_tokens(experiment: Experiment) -> int:
    """Training tokens whose activations are stored: all, or in mode 'stream' the shards behind the norm factor."""
    corpus, activations = experiment.corpus, experiment.activations
    if activations.mode == "store":
        return corpus.tokens
    shard = max(1, activations.shard_tokens // corpus.context) * corpus.context
    return min(corpus.tokens, -(-activations.norm_tokens // shard) * shard)


def window_bytes(experiment: Experiment, size: ModelSize) -> int:
    """Bytes of the shards of one window of the training order."""
    activations = experiment.activations
    rows = min(activations.shuffle_shards * activations.shard_tokens, experiment.corpus.tokens)
    return rows * (size.hidden * _BYTES[activations.dtype] + TOKEN_BYTES)


@dataclass(frozen=True)
class Storage:
    """Bytes, by what they hold; filters make the activations a little smaller."""

    activations: int
    """Tokens, stored activations and gradients: one store for all sweeps with the same model and corpus."""
    cycles: int
    """Trained SAEs, float32."""
    checkpoints: int
    """The last two checkpoints (weights, two moments of Adam) of every trial that runs at once."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.activations + self.cycles + self.checkpoints


def experiment_storage(experiment: Experiment, size: ModelSize, trainings: int, at_once: int) -> Storage:
    """Bytes that an experiment writes when `at_once` trials run together."""
    corpus, d, m = experiment.corpus, size.hidden, experiment.sae.n_latents
    dtype = experiment.activations.dtype
    train = d * _BYTES[dtype]
    held_out = max(train, 2 * d)  # never int8
    # bfloat16 has float32's range; float16 would lose small gradients.
    g = d * (2 if dtype in ("bfloat16", "int8") else 4)
    tokens = corpus.tokens + corpus.attribution_tokens + corpus.eval_tokens
    kept = stored_tokens(experiment)
    activations = (tokens + tokens - corpus.tokens + kept) * TOKEN_BYTES + kept * train
    activations += (tokens - corpus.tokens) * held_out + corpus.attribution_tokens * g
    weights = 4 * (2 * m * d + 2 * m + d)
    return Storage(activations, trainings * weights, at_once * 2 * 3 * weights)
