"""Why a document is not used."""

from collections.abc import Mapping
from enum import IntEnum


class Skipped(IntEnum):
    """The reason why a document is skipped; it stands in the document's place."""

    EMPTY = 1
    NO_FIELD = 2
    NOT_TEXT = 3
    ENCODING = 4
    NOT_JSON = 5
    NO_TOKENS = 6
    TEMPLATE = 7


_WORDS = {
    Skipped.EMPTY: "empty",
    Skipped.NO_FIELD: "without '{field}'",
    Skipped.NOT_TEXT: "neither text nor messages",
    Skipped.ENCODING: "not {encoding}",
    Skipped.NOT_JSON: "not JSON",
    Skipped.NO_TOKENS: "too short for a token",
    Skipped.TEMPLATE: "refused by the chat template",
}


def skipped_text(reasons: Mapping[str, int], used: int, *, field: str, encoding: str) -> str:
    """Say in one line how many documents were skipped, and the share of each reason; empty if none was.

    Args:
        reasons: number of documents by the name of their reason.
        used: number of documents with text.
        field: `corpus.text_field`.
        encoding: `corpus.encoding`.
    """
    count = sum(reasons.values())
    total = count + used
    parts = [
        f"{reasons[reason.name]:,} {words.format(field=field, encoding=encoding)} ({reasons[reason.name] / total:.1%})"
        for reason, words in _WORDS.items()
        if reasons.get(reason.name)
    ]
    rest = count - sum(reasons.get(reason.name, 0) for reason in Skipped)
    parts += [f"{rest:,} for a reason not noted ({rest / total:.1%})"] if rest else []
    return f"{count:,} of {total:,} documents ({count / total:.1%}) were skipped: {', '.join(parts)}" if count else ""
