"""Documents as token ids: text, text with the names of special tokens, and conversations by a chat template."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from dmsae_ray.config import Experiment
from dmsae_ray.corpus import Conversation, first_documents
from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.harvest.model import open_tokenizer

_FIRST = 64
"""Documents that are tried before a harvest: of some conversations a template refuses a role, as 'system'."""


def token_ids(
    tokenizer: Any, documents: Sequence[str], model: str, *, special_tokens: Literal["text", "tokens"]
) -> list[list[int] | None]:
    """Return the token ids of each document, without the special tokens that a tokenizer puts around a text.

    In place of a conversation that the chat template refuses stands None.

    Args:
        tokenizer: a tokenizer of transformers.
        documents: texts, and `Conversation`s, which go through the tokenizer's chat template with all its tokens.
        model: the tokenizer's model, for messages.
        special_tokens: whether the name of a special token in a text is read as its letters or as the token.

    Raises:
        ConfigError: a document is a conversation and the tokenizer has no chat template.
    """
    given = [_templated(tokenizer, each, model) if isinstance(each, Conversation) else each for each in documents]
    ids: list[list[int] | None] = [None] * len(documents)
    for split in (True, False):
        chosen = [
            index
            for index, each in enumerate(documents)
            if isinstance(given[index], str)
            and split == (special_tokens == "text" and not isinstance(each, Conversation))
        ]
        if chosen:
            texts = [given[index] for index in chosen]
            found = tokenizer(texts, add_special_tokens=False, split_special_tokens=split)["input_ids"]
            for index, each_ids in zip(chosen, found, strict=True):
                ids[index] = each_ids
    return ids


def check_documents(experiment: Experiment) -> None:
    """Check on the corpus's first documents, if they are on this machine, that the tokenizer can read their kind.

    Raises:
        ConfigError: there are conversations, and the tokenizer has no chat template or its template refuses all.
        DataError: the corpus cannot be read.
    """
    first = [each for each in first_documents(experiment.corpus, _FIRST) if isinstance(each, Conversation)]
    if not first:
        return
    model = experiment.model
    tokenizer = open_tokenizer(model.name, model.revision)
    found = [_templated(tokenizer, each, model.name) for each in first]
    if not any(isinstance(each, str) for each in found):
        raise ConfigError(
            f"corpus.text_field: the chat template of model.name '{model.name}' refuses the first {len(found)} "
            f"conversations: {one_line(f'{type(found[0]).__name__}: {found[0]}', 160)}"
        )


def _templated(tokenizer: Any, document: Conversation, model: str) -> str | Exception:
    """Return a conversation as text, or what its template raised.

    Raises:
        ConfigError: there is no template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"corpus.text_field holds messages, and the tokenizer of model.name '{model}' has no chat template; give a "
            "model that has one, or a column of text"
        )
    try:
        text: str = tokenizer.apply_chat_template(json.loads(document), tokenize=False)
    except Exception as error:  # a template is a program, and raises what it likes
        return error
    return text
