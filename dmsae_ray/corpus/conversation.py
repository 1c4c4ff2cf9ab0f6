"""A document that is a conversation: messages with a role, which become text by the tokenizer's chat template."""

import json
from typing import Any


class Conversation(str):
    """A conversation as JSON, a list of messages {"role": ..., "content": ...}: what a chat template is given."""

    __slots__ = ()


def conversation(value: Any) -> Conversation | None:
    """Return the conversation that a cell of a `messages` column holds; None if it holds none.

    Args:
        value: a list of mappings with a role and a content (text, or a list of parts); other keys, such as tool calls,
            stay. A key without value is left out, because a Parquet column gives each message the keys of all.
    """
    if not isinstance(value, list) or not value:
        return None
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return None
        if not isinstance(message.get("content"), str | list | None):
            return None
    messages = [{key: item for key, item in message.items() if item is not None} for message in value]
    if not any(message.get("content") for message in messages):
        return None
    try:
        return Conversation(json.dumps(messages, ensure_ascii=False))
    except (TypeError, ValueError):
        return None
