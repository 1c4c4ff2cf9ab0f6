"""A look at a corpus on this machine that costs no more than a few megabytes of reading."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dmsae_ray.config import UTF_8, CorpusSettings
from dmsae_ray.corpus.conversation import Conversation
from dmsae_ray.corpus.formats import corpus_files, first_keys
from dmsae_ray.corpus.reading import check_schemas, list_units, read_unit
from dmsae_ray.corpus.skipped import Skipped, skipped_text
from dmsae_ray.errors import DataError
from dmsae_ray.files import local_path

_DOCUMENTS, _MOST_DOCUMENTS, _BYTES = 256, 10_000, 4 << 20
_STDLIB_TOKENS = 10_000_000
"""More than the text of any Python's standard library has: it is about 1.7 MB."""
_WIDEST = 4  # bytes of UTF-8 that one byte of another encoding becomes at most


@dataclass(frozen=True)
class CorpusSample:
    """What the first documents and the sizes of the files say.

    Attributes:
        documents: number of documents with text among those that were read.
        reasons: number of the others, by the name of their reason (`Skipped`).
        chat: whether one of them is a conversation.
        with_nul: number of texts that hold the character NUL, as text in UTF-16 does that is read as UTF-8.
        most_tokens: tokens that all text has at most: one a byte, and one behind each document; None if the sizes of
            the files do not tell.
        about_bytes: bytes of UTF-8 that all text has about; None if the sizes of the files do not tell.
    """

    documents: int
    reasons: dict[str, int]
    chat: bool
    with_nul: int
    most_tokens: int | None
    about_bytes: float | None


def sample_corpus(corpus: CorpusSettings) -> CorpusSample | None:
    """Read the first documents of a corpus; None if it is not on this machine: nothing is fetched.

    Raises:
        DataError: there is no file of its source, the first one is damaged or has another format, one has no such
            column, or there is no text in all documents that were read.
    """
    if corpus.source == "stdlib":
        return CorpusSample(0, {}, False, 0, _STDLIB_TOKENS, None)
    path = None if corpus.source == "huggingface" else local_path(str(corpus.path))
    if path is None or not os.path.exists(path):
        return None
    found, size, used = list[str | Skipped](), 0, 0
    for document in islice(_documents(corpus), _MOST_DOCUMENTS):
        found.append(document)
        if not isinstance(document, Skipped):
            size, used = size + len(document.encode()), used + 1
        # Where the first are no text, later ones may be.
        if size >= _BYTES or (len(found) >= _DOCUMENTS and used):
            break
    texts = [document for document in found if not isinstance(document, Skipped)]
    reasons = dict(Counter(document.name for document in found if isinstance(document, Skipped)))
    if not texts:
        raise DataError(_no_text(corpus, reasons))
    check_schemas(corpus)
    most, about = _sizes(corpus, size / len(found), len(texts) / len(found))
    chat, with_nul = any(isinstance(text, Conversation) for text in texts), sum("\0" in text for text in texts)
    return CorpusSample(len(texts), reasons, chat, with_nul, most, about)


def _documents(corpus: CorpusSettings) -> Iterator[str | Skipped]:
    for unit in list_units(corpus):
        yield from read_unit(corpus, unit)


def _no_text(corpus: CorpusSettings, reasons: dict[str, int]) -> str:
    if not reasons:
        return f"corpus.path '{corpus.path}' holds no documents"
    if set(reasons) == {Skipped.NO_FIELD.name}:
        path = corpus_files(corpus)[0]
        keys = first_keys(corpus, path)
        if keys is None:
            return f"corpus file '{path}' begins with a JSON array; one object a line is read (JSON lines)"
        return (
            f"corpus.text_field is '{corpus.text_field}', which none of the first {sum(reasons.values())} documents of "
            f"'{corpus.path}' has; the first has {', '.join(keys) or 'no keys'}"
        )
    if set(reasons) == {Skipped.NOT_TEXT.name}:
        return (
            f"corpus.text_field is '{corpus.text_field}'; of '{corpus.path}' it holds neither text nor messages in the "
            f"first {sum(reasons.values())} documents; it must be a text, or a list of messages {{role, content}}"
        )
    said = skipped_text(reasons, 0, field=corpus.text_field, encoding=corpus.encoding)
    return f"corpus.path '{corpus.path}': no text in its first documents: {said}"


def _sizes(corpus: CorpusSettings, mean: float, used: float) -> tuple[int | None, float | None]:
    """Return the tokens of all text at most, and its bytes about, from the sizes of files.

    Args:
        corpus: the settings.
        mean: mean bytes of a document, 0 for one that is skipped.
        used: share of the documents that are not skipped.
    """
    files = corpus_files(corpus)
    total = sum(map(os.path.getsize, files))
    if corpus.source == "parquet":
        import pyarrow.parquet as pq

        # What a dictionary repeats has no bytes, so a file's size bounds nothing.
        rows = pq.read_metadata(files[0]).num_rows
        return None, mean * rows * total / max(1, os.path.getsize(files[0]))
    if any(path.endswith((".gz", ".zst")) for path in files):
        return None, None
    if corpus.source == "arrow":
        return None, total * used
    most = total * (1 if corpus.encoding == UTF_8 else _WIDEST)
    # The quotes and braces around a text of JSON lines are more than the one token behind it.
    return most + (len(files) if corpus.source == "text" else 0), total * used
