"""Whether the text is there and enough, as far as this machine can tell without a network, a cluster or a tokenizer."""

import json

from dmsae_ray.config import Experiment, ModelSettings
from dmsae_ray.corpus import check_is_on_hub, sample_corpus, skipped_text
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import local_path
from dmsae_ray.plan.model_size import config_file
from dmsae_ray.plan.words import count_text

_BYTES_A_TOKEN = 4
"""Of English text and common tokenizers, about."""


def check_text(experiment: Experiment) -> tuple[str, ...]:
    """Look at the first documents and the sizes of the files of a corpus on this machine.

    Returns:
        What a person should know, one sentence each.

    Raises:
        DataError: there is no text in `corpus.text_field`, or certainly less than the tokens that are asked.
        ConfigError: the text is conversations, and the tokenizer has no chat template; or source 'huggingface' names
            something on this machine.
    """
    corpus = experiment.corpus
    if corpus.source == "huggingface":
        check_is_on_hub(corpus)
        return ()
    sample = sample_corpus(corpus)
    if sample is None:
        here = local_path(str(corpus.path)) is not None
        return (f"corpus.path '{corpus.path}' is not on this machine: nothing of it was looked at",) if here else ()
    if sample.chat and _has_template(experiment.model) is False:
        raise ConfigError(
            f"corpus.text_field holds messages, and the tokenizer of model.name '{experiment.model.name}' has no chat "
            "template; give a model that has one, or a column of text"
        )
    parts = (corpus.tokens, corpus.attribution_tokens, corpus.eval_tokens)
    contexts = sum(-(-tokens // corpus.context) for tokens in parts)
    place = "the standard library's text" if corpus.source == "stdlib" else f"corpus.path '{corpus.path}'"
    # BOS is no text. A chat template adds tokens of its own.
    most = None if sample.chat else sample.most_tokens
    if most is not None and most < contexts * (corpus.context - 1):
        raise DataError(
            f"corpus.tokens {corpus.tokens} + attribution_tokens {corpus.attribution_tokens} + eval_tokens "
            f"{corpus.eval_tokens} = {sum(parts)} tokens were asked of {place}, which has at most {most:,}: "
            "one a byte"
        )
    notes = []
    if sample.about_bytes is not None and sample.about_bytes < _BYTES_A_TOKEN * sum(parts):
        about = count_text(int(sample.about_bytes / _BYTES_A_TOKEN))
        notes.append(f"{place} has about {about} tokens of {_BYTES_A_TOKEN} bytes; {count_text(sum(parts))} are asked")
    if sample.with_nul:
        notes.append(
            f"{sample.with_nul} of the first {sample.documents} documents of {place} hold the character NUL, as text "
            f"in UTF-16 does where it is read as {corpus.encoding}: see corpus.encoding"
        )
    skipped = skipped_text(sample.reasons, sample.documents, field=corpus.text_field, encoding=corpus.encoding)
    if skipped:
        notes.append(f"of the first documents of {place}, {skipped}")
    return tuple(notes)


def _has_template(model: ModelSettings) -> bool | None:
    """Return whether the tokenizer has a chat template; None if it is not on this machine."""
    if model.name == "tiny":
        return False
    config = config_file(model.name, model.revision)
    if config is None:
        return None
    settings = config.parent / "tokenizer_config.json"
    if any((config.parent / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    if not settings.is_file():
        return None
    try:
        tree = json.loads(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return isinstance(tree, dict) and bool(tree.get("chat_template"))
