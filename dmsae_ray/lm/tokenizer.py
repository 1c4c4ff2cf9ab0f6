"""Load the tokenizer of a language model; a process that only tokenises loads no part of a model."""

from typing import Any

from transformers import AutoTokenizer

from dmsae_ray.lm.description import NO_CODE, place_of, told_in_one_line
from dmsae_ray.lm.quiet import quiet


def load_tokenizer(model: str, revision: str | None = None, *, local_only: bool = False) -> Any:
    """Return the model's tokenizer (of transformers).

    Args:
        model: 'tiny', a Hub id, or a local folder.
        revision: commit or tag on the Hub.
        local_only: take it from the Hub's cache on this machine, and never from the network.

    Raises:
        ConfigError: the model is unknown or has no tokenizer.
    """
    with told_in_one_line(model, "tokenizer"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            place_of(model), revision=revision, local_files_only=local_only, **NO_CODE
        )
        # Without tokenizer files, transformers makes a tokenizer of the right class with special tokens only.
        if len(tokenizer) < 32:
            raise ValueError(f"it has {len(tokenizer)} tokens; tokenizer.json is missing")
    return tokenizer
