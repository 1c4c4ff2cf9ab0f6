"""How the embedded tiny Gemma-2 is made: tokenizer, initial weights, training, held-out loss.

Everything is a function of the documents and the recipe: the generators are our own with fixed seeds, and the numbers
of steps and of threads are fixed. On one machine the same call gives the same bits.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM

from dmsae_ray.lm.tiny_recipe import OnTrainingStep, TinyRecipe, TrainingStep

PAD, EOS, BOS, UNK = range(4)
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids as in Gemma's own vocabulary


def train_tokenizer(documents: Sequence[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer, which encodes any text without loss.

    `<bos>` is put first if special tokens are added.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]
    )
    return tokenizer


def token_stream(tokenizer: Tokenizer, documents: Sequence[str]) -> Tensor:
    """Return the documents' tokens, with `<eos>` after each document: int64 [n]."""
    encoded = tokenizer.encode_batch(list(documents), add_special_tokens=False)
    return torch.tensor([token for document in encoded for token in (*document.ids, EOS)])


def contexts(stream: Tensor, starts: Tensor, context: int) -> Tensor:
    """Return `<bos>` and the `context` - 1 tokens that follow each start: int64 [n, context]."""
    body = stream[starts[:, None] + torch.arange(context - 1)]
    return torch.cat([torch.full((len(starts), 1), BOS), body], dim=1)


def tiny_config(recipe: TinyRecipe) -> Gemma2Config:
    """Return the model's configuration: Gemma-2 in all but size."""
    return Gemma2Config(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.head_dim,
        query_pre_attn_scalar=recipe.head_dim,
        max_position_embeddings=recipe.context,
        sliding_window=recipe.window,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def initial_model(recipe: TinyRecipe) -> Gemma2ForCausalLM:
    """Return a model with fresh float32 weights: embedding N(0, 1/hidden), linear maps N(0, 1/fan_in), norms at 1.

    With transformers' own 0.02 for all weights, training is slow at this width. torch's global generator is neither
    read nor changed.
    """
    with torch.random.fork_rng(devices=[]):
        model = Gemma2ForCausalLM(tiny_config(recipe))
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms stay: Gemma's RMSNorm scales by 1 + weight, and transformers starts the weight at 0.
            if parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    return model


def train_model(stream: Tensor, recipe: TinyRecipe, progress: OnTrainingStep | None = None) -> Gemma2ForCausalLM:
    """Train a model on contexts that start anywhere in the stream, and return it with frozen parameters.

    Args:
        stream: int64 [n], documents that end with `<eos>`.
        recipe: steps, schedule and seed.
        progress: called every 50 steps and at the last step.
    """
    with fixed_threads(recipe.threads):
        model = initial_model(recipe)
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim == 2], "weight_decay": recipe.weight_decay},
                {"params": [p for p in parameters if p.ndim != 2], "weight_decay": 0.0},
            ],
            lr=recipe.lr,
            betas=(0.9, 0.95),
            fused=True,
        )
        generator = torch.Generator().manual_seed(recipe.seed + 1)
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * schedule(step, recipe)
            starts = torch.randint(len(stream) - recipe.context + 2, (recipe.batch,), generator=generator)
            tokens = contexts(stream, starts, recipe.context)
            loss = _losses(model, tokens).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if progress and ((step + 1) % 50 == 0 or step + 1 == recipe.steps):
                progress(TrainingStep(step + 1, recipe.steps, loss.item()))
    return model.requires_grad_(False)


def schedule(step: int, recipe: TinyRecipe) -> float:
    """Return the factor of the learning rate: linear warm-up, then a cosine down to `final_lr`."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.final_lr + (1 - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def held_out_loss(model: Gemma2ForCausalLM, stream: Tensor, recipe: TinyRecipe) -> float:
    """Return the mean next-token cross-entropy in nats per token, over the stream cut into contexts.

    The last piece, which is shorter than a context, is left out.
    """
    starts = torch.arange(0, len(stream) - recipe.context + 2, recipe.context - 1)
    total, n = 0.0, 0
    with fixed_threads(recipe.threads):
        for part in torch.split(starts, 64):
            losses = _losses(model, contexts(stream, part, recipe.context))
            total, n = total + losses.double().sum().item(), n + losses.numel()
    return total / n


def unigram_loss(train: Tensor, held_out: Tensor, vocab_size: int) -> float:
    """Return the cross-entropy of the held-out tokens under the training frequencies (add-one), in nats per token."""
    counts = torch.bincount(train, minlength=vocab_size).double() + 1
    return float(-(counts / counts.sum()).log()[held_out].mean())


@contextmanager
def fixed_threads(n: int) -> Iterator[None]:
    """Let torch use `n` threads: the number of threads that sum may change the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _losses(model: Gemma2ForCausalLM, tokens: Tensor) -> Tensor:
    """Return the next-token cross-entropies of tokens [n, t], in nats: [n * (t - 1)]."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
