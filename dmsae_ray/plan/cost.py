"""What an experiment costs, by arithmetic alone: tokens, floating-point operations, bytes.

The FLOPs of the language model are counted as in Kaplan et al. 2020 (arXiv 2001.08361, section 2.1): the forward pass
costs 2 per matrix weight and token, and the gradient with respect to the input costs the same again. The weights are
frozen, so their own gradients cost nothing. Attention adds 4 * heads * head_dim per token and attended position (half
the context on average; a sliding window would reduce it).
"""

from dataclasses import dataclass

from dmsae_ray.config import Experiment
from dmsae_ray.distill import scoring_flops, training_flops
from dmsae_ray.plan.model_size import ModelSize

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
TOKEN_BYTES = 4
"""Bytes of a stored token id, and of the position of a stored row."""


@dataclass(frozen=True)
class Flops:
    """FLOPs, by what they are spent on.

    Attributes:
        harvest: Activations of the stored tokens, and gradients of the attribution tokens.
        training: SAE training and scoring.
        evaluation: Loss recovered of every trained SAE.
        streaming: Activations of the training tokens in mode 'stream', computed anew for every training and every
            epoch of it.
    """

    harvest: float
    training: float
    evaluation: float
    streaming: float = 0.0

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.harvest + self.training + self.evaluation + self.streaming


def block_flops(size: ModelSize, context: int) -> float:
    """Return the FLOPs per token of one block, forward."""
    return 2.0 * size.block_weights + attention_flops(size, context)


def attention_flops(size: ModelSize, context: int) -> float:
    """Return the FLOPs per token of attention scores and mixing in one block, forward."""
    return 4.0 * size.heads * size.head_dim * (context + 1) / 2


def truncated_flops(size: ModelSize, layer: int, context: int) -> float:
    """Return the FLOPs per token of the forward pass up to and including block `layer`."""
    return (layer + 1) * block_flops(size, context)


def forward_flops(size: ModelSize, context: int) -> float:
    """Return the FLOPs per token of the whole forward pass, unembedding included."""
    return size.layers * block_flops(size, context) + 2.0 * size.vocab * size.hidden


def gradient_flops(size: ModelSize, layer: int, context: int) -> float:
    """Return the FLOPs per token of dCE/dx after block `layer`: a forward pass, and a backward pass down to the block.

    Attention scores and mixing have two inputs each, so their backward pass costs twice their forward pass.
    """
    back = 2.0 * size.block_weights + 2.0 * attention_flops(size, context)
    return forward_flops(size, context) + (size.layers - layer - 1) * back + 2.0 * size.vocab * size.hidden


def experiment_flops(experiment: Experiment, size: ModelSize, trainings: int, lengths: float | None = None) -> Flops:
    """Return the FLOPs of harvesting, and of training and evaluating SAEs.

    Args:
        experiment: The experiment.
        size: The sizes of its language model.
        trainings: Number of the SAEs.
        lengths: Training tokens of all of them together, as a multiple of recipe.tokens; by default one for each.
    """
    lengths = trainings if lengths is None else lengths
    corpus, sae, layer = experiment.corpus, experiment.sae, experiment.model.layer
    truncated = truncated_flops(size, layer, corpus.context)
    harvest = (stored_tokens(experiment) + corpus.eval_tokens) * truncated
    harvest += corpus.attribution_tokens * gradient_flops(size, layer, corpus.context)
    pool = sum(sae.groups[: experiment.distill.pool_groups])
    tokens = experiment.recipe.steps * experiment.recipe.batch_size
    training = lengths * training_flops(size.hidden, sae.n_latents, tokens)
    training += trainings * scoring_flops(size.hidden, sae.n_latents, pool, corpus.attribution_tokens)
    # Three passes: clean, spliced and zero-ablated.
    evaluation = 3 * corpus.eval_tokens * forward_flops(size, corpus.context)
    streaming = lengths * tokens * truncated if experiment.activations.mode == "stream" else 0.0
    return Flops(harvest, training, trainings * evaluation, streaming)


def stored_tokens(experiment: Experiment) -> int:
    """Return the training tokens whose activations are stored: all; in mode 'stream', the norm factor's shards only."""
    corpus, activations = experiment.corpus, experiment.activations
    if activations.mode == "store":
        return corpus.tokens
    shard = max(1, activations.shard_tokens // corpus.context) * corpus.context
    return min(corpus.tokens, -(-activations.norm_tokens // shard) * shard)


def training_bytes(experiment: Experiment, size: ModelSize) -> int:
    """Return the bytes of the rows that one training reads."""
    rows = experiment.recipe.steps * experiment.recipe.batch_size
    return rows * (size.hidden * _BYTES[experiment.activations.dtype] + TOKEN_BYTES)


def window_bytes(experiment: Experiment, size: ModelSize) -> int:
    """Return the bytes of the shards of one window of the training order."""
    activations = experiment.activations
    rows = min(activations.shuffle_shards * activations.shard_tokens, experiment.corpus.tokens)
    return rows * (size.hidden * _BYTES[activations.dtype] + TOKEN_BYTES)


@dataclass(frozen=True)
class Storage:
    """Bytes, by what they hold; filters make the activations a little smaller.

    Attributes:
        activations: Tokens, stored activations and gradients: one store for all sweeps with the same model and corpus.
        cycles: Trained SAEs, float32.
        checkpoints: The last two checkpoints (weights, two moments of Adam) of every trial that runs at once.
    """

    activations: int
    cycles: int
    checkpoints: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.activations + self.cycles + self.checkpoints


def experiment_storage(experiment: Experiment, size: ModelSize, trainings: int, at_once: int) -> Storage:
    """Return the bytes that an experiment writes when `at_once` trials run together."""
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
