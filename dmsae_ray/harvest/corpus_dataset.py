"""The documents of a corpus as a Ray Dataset, in the corpus's order."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import ray.data

from dmsae_ray.config import CorpusSettings
from dmsae_ray.corpus import Conversation, Skipped, read_unit

_CONCURRENT_UNITS = 2  # units read at the same time: reading is far cheaper than tokenising
_CHUNK_CHARACTERS = 1_000_000


def documents(corpus: CorpusSettings, units: list[dict[str, Any]], first: int = 0, skip: int = 0) -> ray.data.Dataset:
    """Return the corpus as a Ray Dataset with the columns `text`, `chat`, `skipped` and `unit`.

    `text` is null for a document to be skipped; `skipped` is int32, the reason (`corpus.Skipped`) or 0; `chat` is bool,
    whether it is a conversation as JSON; `unit` is int32, the index of the document's unit.

    Args:
        corpus: what to read.
        units: the result of `list_units` for it.
        first: index of the unit to begin with; the units before it are not read.
        skip: documents of that unit to leave out.
    """
    items = [{"unit": i, "spec": json.dumps(units[i])} for i in range(first, len(units))]
    rows = ray.data.from_items(items, override_num_blocks=len(items))

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for row in batch.to_pylist():
            texts = islice(read_unit(corpus, json.loads(row["spec"])), skip if row["unit"] == first else 0, None)
            for chunk in _chunks(texts):
                unit = pa.array([row["unit"]] * len(chunk), pa.int32())
                chat = pa.array([isinstance(text, Conversation) for text in chunk], pa.bool_())
                texts_or_null = [None if isinstance(text, Skipped) else text for text in chunk]
                reasons = pa.array([int(text) if isinstance(text, Skipped) else 0 for text in chunk], pa.int32())
                text_column = pa.array(texts_or_null, pa.string())
                yield pa.table({"text": text_column, "chat": chat, "skipped": reasons, "unit": unit})

    # Half a CPU: Ray does not fuse operators with different resources. So reading is not fused with tokenising, and the
    # text of one large file is tokenised by many tasks.
    readers = min(_CONCURRENT_UNITS, len(items))
    return rows.map_batches(read, batch_size=1, batch_format="pyarrow", concurrency=readers, num_cpus=0.5)


def _chunks(texts: Iterator[str | Skipped]) -> Iterator[list[str | Skipped]]:
    """Group documents into chunks of about a million characters."""
    chunk: list[str | Skipped] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += 1 if isinstance(text, Skipped) else len(text) + 1
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
