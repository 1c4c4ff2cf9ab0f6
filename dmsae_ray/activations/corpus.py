"""Documents as a Ray Dataset in one fixed order, read lazily, from any of the sources of `config.Corpus`.

The driver lists *units* (files, or the shards of a Hub dataset); tasks read them. A document that is empty or cannot be
decoded comes out as a null, so that it is counted where the tokens are counted.
"""

import gzip
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from dmsae_ray.activations.files import filesystem, list_files, one_line
from dmsae_ray.config import Corpus
from dmsae_ray.errors import DataError

log = logging.getLogger(__name__)

RETRY_DELAYS = (2.0, 10.0, 30.0)
"""Seconds before a failing network read is tried again; the library's own attempts come within each try."""

SUFFIXES = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".ndjson"),
    "text": (".txt", ".md", ".rst"),
}
_FILES_PER_UNIT = {"text": 64}
_READERS = 2  # units read ahead of each other: reading is far cheaper than tokenising
_CHUNK_CHARACTERS = 1_000_000
_STDLIB_ORDER = 0x57D11B


def documents(corpus: Corpus, units: list[dict[str, Any]], first: int = 0, skip: int = 0) -> ray.data.Dataset:
    """The corpus as a Ray Dataset with the columns `text` (null for a document to be skipped) and `unit` (its index).

    Args:
        corpus: what to read.
        units: `list_units` of it.
        first: the unit to begin with; those before it are not touched.
        skip: documents of that unit to leave out.
    """
    items = [{"unit": i, "spec": json.dumps(units[i])} for i in range(first, len(units))]
    rows = ray.data.from_items(items, override_num_blocks=len(items))

    def read(batch: pa.Table) -> Iterator[pa.Table]:
        for row in batch.to_pylist():
            texts = islice(read_unit(corpus, json.loads(row["spec"])), skip if row["unit"] == first else 0, None)
            for chunk in _chunks(texts):
                unit = pa.array([row["unit"]] * len(chunk), pa.int32())
                yield pa.table({"text": pa.array(chunk, pa.string()), "unit": unit})

    # Half a CPU: other resources than the next operator's keep Ray from fusing reading with tokenising, and the text of
    # one large file is then tokenised by many tasks.
    readers = min(_READERS, len(items))
    return rows.map_batches(read, batch_size=1, batch_format="pyarrow", concurrency=readers, num_cpus=0.5)


def check_corpus(corpus: Corpus) -> None:
    """See that there is something at `corpus.path`; a Hub dataset is not asked for, since that takes a network.

    Raises:
        DataError: there is nothing.
    """
    if corpus.source != "huggingface":
        list_units(corpus)


def list_units(corpus: Corpus) -> list[dict[str, Any]]:
    """What can be read independently, in order: groups of files, or shards of a Hub dataset."""
    if corpus.source == "stdlib":
        return [{}]
    assert corpus.path is not None  # config.Corpus refuses it
    if corpus.source == "huggingface":
        count = int(getattr(_open_hub(corpus), "num_shards", 1) or 1)
        return [{"shard": i, "of": count} for i in range(count)]
    try:
        files = list_files(corpus.path, SUFFIXES[corpus.source])
    except OSError as error:
        raise DataError(f"corpus.path '{corpus.path}' cannot be listed: {one_line(error)}") from None
    if not files:
        wanted = ", ".join(SUFFIXES[corpus.source])
        raise DataError(f"corpus.path '{corpus.path}' has no file of source '{corpus.source}' ({wanted})")
    step = _FILES_PER_UNIT.get(corpus.source, 1)
    return [{"files": files[i : i + step]} for i in range(0, len(files), step)]


def read_unit(corpus: Corpus, unit: dict[str, Any]) -> Iterator[str | None]:
    """Documents of a unit, in order; None for one that is empty or corrupt."""
    if corpus.source == "stdlib":
        yield from _stdlib()
    elif corpus.source == "huggingface":
        yield from _retried(lambda: _read_hub(corpus, unit), f"corpus.path '{corpus.path}'")
    else:
        read = {"parquet": _read_parquet, "jsonl": _read_jsonl, "text": _read_text}[corpus.source]
        for path in unit["files"]:
            make = _file_reader(read, corpus, path)
            yield from _retried(make, f"corpus file '{path}'") if "://" in str(corpus.path) else _checked(make(), path)


def _file_reader(
    read: Callable[[Corpus, str], Iterator[str | None]], corpus: Corpus, path: str
) -> Callable[[], Iterator[str | None]]:
    return lambda: read(corpus, path)


def _stdlib() -> Iterator[str | None]:
    """The documents that the embedded model was not trained on first: the held-out tokens come from there."""
    from dmsae_ray.lm.text import split_documents, stdlib_documents

    trained, held_out = split_documents(stdlib_documents())
    for texts in (held_out, trained):
        # A fixed permutation: help topics and docstrings are different kinds of text.
        for i in np.argsort(np.random.Philox(key=_STDLIB_ORDER).random_raw(len(texts)), kind="stable"):
            yield texts[i] or None


def _read_parquet(corpus: Corpus, path: str) -> Iterator[str | None]:
    system, _ = filesystem(str(corpus.path))
    with system.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        if corpus.text_field not in file.schema_arrow.names:
            raise DataError(
                f"corpus.text_field is '{corpus.text_field}'; '{path}' has the columns "
                f"{', '.join(file.schema_arrow.names)}"
            )
        for batch in file.iter_batches(batch_size=256, columns=[corpus.text_field]):
            for text in batch.column(0).to_pylist():
                yield text if isinstance(text, str) and text else None


def _read_jsonl(corpus: Corpus, path: str) -> Iterator[str | None]:
    system, _ = filesystem(str(corpus.path))
    found = False
    with system.open_input_stream(path, compression=None) as raw:
        stream: Any = raw
        if path.endswith(".gz"):
            stream = gzip.GzipFile(fileobj=raw)
        elif path.endswith(".zst"):
            stream = pa.CompressedInputStream(raw, "zstd")
        for line in io.BufferedReader(stream, 1 << 20):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                yield None
                continue
            text = record.get(corpus.text_field) if isinstance(record, dict) else None
            found = found or isinstance(text, str)
            yield text if isinstance(text, str) and text else None
    if not found:
        log.warning("corpus file %s has no text under corpus.text_field '%s'", path, corpus.text_field)


def _read_text(corpus: Corpus, path: str) -> Iterator[str | None]:
    system, _ = filesystem(str(corpus.path))
    with system.open_input_stream(path) as stream:
        content = bytes(stream.read())
    try:
        yield content.decode("utf-8") or None
    except UnicodeDecodeError:
        yield None


def _open_hub(corpus: Corpus) -> Any:
    """The streaming dataset of a Hub id; network errors are retried with back-off."""
    from datasets import load_dataset

    for delay in (*RETRY_DELAYS[:1], None):
        try:
            return load_dataset(
                str(corpus.path), corpus.subset, split=corpus.split, revision=corpus.revision, streaming=True
            )
        except (ConnectionError, TimeoutError) as error:
            from huggingface_hub.constants import is_offline_mode

            if delay is None or is_offline_mode():
                raise DataError(f"corpus.path '{corpus.path}' cannot be reached: {one_line(error)}") from None
            log.warning("corpus.path '%s': %s; next try in %g s", corpus.path, one_line(error), delay)
            time.sleep(delay)
        except Exception as error:
            raise DataError(f"corpus.path '{corpus.path}' cannot be opened: {one_line(error)}") from None
    raise AssertionError("unreachable")


def _read_hub(corpus: Corpus, unit: dict[str, Any]) -> Iterator[str | None]:
    dataset = _open_hub(corpus).shard(num_shards=unit["of"], index=unit["shard"])
    for row in dataset:
        if corpus.text_field not in row:
            raise DataError(f"corpus.text_field is '{corpus.text_field}'; the dataset has {', '.join(row)}")
        text = row[corpus.text_field]
        yield text if isinstance(text, str) and text else None


def _retried(make: Callable[[], Iterator[str | None]], what: str) -> Iterator[str | None]:
    """Iterate `make()`; after a network error start it again, past the documents that were delivered."""
    delivered, failures = 0, 0
    while True:
        try:
            for text in islice(make(), delivered, None):
                delivered, failures = delivered + 1, 0
                yield text
            return
        except DataError:
            raise
        except Exception as error:
            if failures >= len(RETRY_DELAYS):
                raise DataError(f"{what} cannot be read beyond document {delivered}: {one_line(error)}") from None
            log.warning("%s: %s; next try in %g s", what, one_line(error), RETRY_DELAYS[failures])
            time.sleep(RETRY_DELAYS[failures])
            failures += 1


def _checked(texts: Iterator[str | None], path: str) -> Iterator[str | None]:
    try:
        yield from texts
    except DataError:
        raise
    except (OSError, EOFError, pa.ArrowException, ValueError) as error:
        raise DataError(f"corpus file '{path}' is truncated or of another format: {one_line(error)}") from None


def _chunks(texts: Iterator[str | None]) -> Iterator[list[str | None]]:
    """Group documents to about a million characters."""
    chunk: list[str | None] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text or "") + 1
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
