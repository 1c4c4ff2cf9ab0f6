"""The text: documents of any source in one fixed order, and their packing into contexts of equal length.

Input: `corpus` settings that name the standard library's text, a Hub dataset, or files (parquet, arrow, jsonl, text).
Output: the documents of one unit at a time (`list_units`, `read_unit`; a `Conversation` where a column holds messages),
and contexts of token ids with the starts of documents (`Packer`, `Contexts`). Tokenising is not done here but in
`harvest`.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.corpus.contexts import Contexts as Contexts
    from dmsae_ray.corpus.contexts import Packer as Packer
    from dmsae_ray.corpus.contexts import join as join
    from dmsae_ray.corpus.contexts import loss_mask as loss_mask
    from dmsae_ray.corpus.conversation import Conversation as Conversation
    from dmsae_ray.corpus.formats import corpus_files as corpus_files
    from dmsae_ray.corpus.reading import check_corpus as check_corpus
    from dmsae_ray.corpus.reading import check_is_on_hub as check_is_on_hub
    from dmsae_ray.corpus.reading import first_document as first_document
    from dmsae_ray.corpus.reading import first_documents as first_documents
    from dmsae_ray.corpus.reading import list_units as list_units
    from dmsae_ray.corpus.reading import read_unit as read_unit
    from dmsae_ray.corpus.sample import CorpusSample as CorpusSample
    from dmsae_ray.corpus.sample import sample_corpus as sample_corpus
    from dmsae_ray.corpus.skipped import Skipped as Skipped
    from dmsae_ray.corpus.skipped import skipped_text as skipped_text

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "contexts": (
            "Contexts",
            "Packer",
            "join",
            "loss_mask",
        ),
        "conversation": ("Conversation",),
        "formats": ("corpus_files",),
        "reading": (
            "check_corpus",
            "check_is_on_hub",
            "first_document",
            "first_documents",
            "list_units",
            "read_unit",
        ),
        "sample": (
            "CorpusSample",
            "sample_corpus",
        ),
        "skipped": (
            "Skipped",
            "skipped_text",
        ),
    },
)
