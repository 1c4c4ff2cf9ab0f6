"""Documents as token ids: text, text with the names of special tokens, and conversations by a chat template."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from dmsae_ray.config import Experiment
from dmsae_ray.corpus import Conversation, first_document
from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.harvest.model import open_tokenizer


def token_ids(
    tokenizer: Any, documents: Sequence[str], model: str, *, special_tokens: Literal["text", "tokens"]
) -> list[list[int]]:
    """Return the token ids of each document, without the special tokens that a tokenizer puts around a text.

    Args:
        tokenizer: a tokenizer of transformers.
        documents: texts, and `Conversation`s, which go through the tokenizer's chat template with all its tokens.
        model: the tokenizer's model, for messages.
        special_tokens: whether the name of a special token in a text is read as its letters or as the token.

    Raises:
        ConfigError: a document is a conversation and the tokenizer has no chat template, or the template refuses it.
    """
    texts = [_templated(tokenizer, each, model) if isinstance(each, Conversation) else each for each in documents]
    ids: list[list[int]] = [[] for _ in texts]
    for split in (True, False):
        chosen = [
            index
            for index, each in enumerate(documents)
            if split == (special_tokens == "text" and not isinstance(each, Conversation))
        ]
        if chosen:
            given = [texts[index] for index in chosen]
            found = tokenizer(given, add_special_tokens=False, split_special_tokens=split)["input_ids"]
            for index, each_ids in zip(chosen, found, strict=True):
                ids[index] = each_ids
    return ids


def check_documents(experiment: Experiment) -> None:
    """Check on the corpus's first document, if it is on this machine, that the tokenizer can read its kind.

    Raises:
        ConfigError: it is a conversation, and the tokenizer has no chat template or its template refuses it.
        DataError: the corpus cannot be read.
    """
    first = first_document(experiment.corpus)
    if isinstance(first, Conversation):
        model = experiment.model
        _templated(open_tokenizer(model.name, model.revision), first, model.name)


def _templated(tokenizer: Any, document: Conversation, model: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"corpus.text_field holds messages, and the tokenizer of model.name '{model}' has no chat template; give a "
            "model that has one, or a column of text"
        )
    try:
        text: str = tokenizer.apply_chat_template(json.loads(document), tokenize=False)
    except Exception as error:  # a template is a program, and raises what it likes
        raise ConfigError(
            f"corpus.text_field: the chat template of model.name '{model}' refuses a conversation: "
            f"{one_line(f'{type(error).__name__}: {error}', 160)}"
        ) from None
    return text
