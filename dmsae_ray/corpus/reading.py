"""Documents as a Ray Dataset in one fixed order, read lazily, from any of the sources of `config.Corpus`.

The driver lists *units* (files, or the shards of a Hub dataset); tasks read them. A document that is empty or cannot be
decoded comes out as a null, so that it is counted where the tokens are counted. Of a Hub dataset `datasets` reads whole
pieces of a file: one damaged document in it is an error there, and skipped by the sources 'parquet' and 'jsonl'.
"""

import gzip
import io
import json
import logging
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from dmsae_ray.config import Corpus
from dmsae_ray.errors import DataError, DmsaeError
from dmsae_ray.files import HUB, Folder, came_from_server, filesystem, list_files, patiently, retried, why

log = logging.getLogger(__name__)

SUFFIXES = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".ndjson"),
    "text": (".txt", ".md", ".rst"),
}
_FILES_PER_UNIT = {"text": 64}
_READERS = 2  # units read ahead of each other: reading is far cheaper than tokenising
_CHUNK_CHARACTERS = 1_000_000
_STDLIB_ORDER = 0x57D11B
_DAMAGE = (OSError, EOFError, zlib.error, pa.ArrowException, ValueError)

Answer = TypeVar("Answer")


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
        count = int(getattr(_asked(corpus, "opened", partial(_open_hub, corpus)), "num_shards", 1) or 1)
        return [{"shard": i, "of": count} for i in range(count)]
    files = _asked(corpus, "listed", partial(list_files, corpus.path, SUFFIXES[corpus.source]))
    if not files:
        wanted = ", ".join(SUFFIXES[corpus.source])
        raise DataError(f"{_what(corpus)} has no file of source '{corpus.source}' ({wanted})")
    step = _FILES_PER_UNIT.get(corpus.source, 1)
    return [{"files": files[i : i + step]} for i in range(0, len(files), step)]


def read_unit(corpus: Corpus, unit: dict[str, Any]) -> Iterator[str | None]:
    """Documents of a unit, in order; None for one that is empty or corrupt.

    Raises:
        DataError: a file is damaged, is not what the corpus says, or its server has not answered for too long.
    """
    if corpus.source == "stdlib":
        yield from map(_usable, _stdlib())
    elif corpus.source == "huggingface":
        what = _what(corpus)
        values = retried(partial(_read_hub, corpus, unit), what, _server(corpus))
        damaged = (
            "has a damaged file, and source 'huggingface' cannot skip a document within a file ('parquet' and 'jsonl' "
            "can, with the path hf://datasets/...)"
        )
        yield from map(_usable, _checked(values, what, damaged, (Exception,)))
    else:
        read = {"parquet": _read_parquet, "jsonl": _read_jsonl, "text": _read_text}[corpus.source]
        for path in unit["files"]:
            what = f"corpus file '{path}'"
            values = retried(partial(read, corpus, path), what, _server(corpus))
            yield from map(_usable, _checked(values, what, "is truncated or of another format", _DAMAGE))


def _what(corpus: Corpus) -> str:
    return f"corpus.path '{Folder(str(corpus.path))}'"


def _server(corpus: Corpus) -> str:
    """Who answers for the path, in a message."""
    scheme = str(corpus.path).partition("://")[0]
    return HUB if corpus.source == "huggingface" or scheme == "hf" else scheme


def _asked(corpus: Corpus, verb: str, ask: Callable[[], Answer]) -> Answer:
    """`ask()`, outages waited out; what is wrong with `corpus.path` in one line."""
    try:
        return patiently(ask, _what(corpus), _server(corpus))
    except DmsaeError:
        raise
    except Exception as error:
        raise DataError(f"{_what(corpus)} cannot be {verb}: {why(error)}") from None


def _checked(values: Iterator[Any], what: str, damaged: str, errors: tuple[type[Exception], ...]) -> Iterator[Any]:
    """The values; an error while they are read in one line: it says `damaged` unless the place could not be reached."""
    count = 0
    try:
        for value in values:
            count += 1
            yield value
    except DmsaeError:
        raise
    except errors as error:
        problem = "cannot be read" if came_from_server(error) else damaged
        raise DataError(f"{what} {problem}, behind document {count}: {why(error)}") from None


def _usable(value: Any) -> str | None:
    """A document's text; None if it is none, empty, or has half a surrogate pair, which UTF-8 cannot hold."""
    if not isinstance(value, str) or not value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _stdlib() -> Iterator[str]:
    """The documents that the embedded model was not trained on first: the held-out tokens come from there."""
    from dmsae_ray.lm import split_documents, stdlib_documents

    trained, held_out = split_documents(stdlib_documents())
    for texts in (held_out, trained):
        # A fixed permutation: help topics and docstrings are different kinds of text.
        for i in np.argsort(np.random.Philox(key=_STDLIB_ORDER).random_raw(len(texts)), kind="stable"):
            yield texts[i]


def _read_parquet(corpus: Corpus, path: str) -> Iterator[Any]:
    system, _ = filesystem(str(corpus.path))
    with system.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        if corpus.text_field not in file.schema_arrow.names:
            raise DataError(
                f"corpus.text_field is '{corpus.text_field}'; '{path}' has the columns "
                f"{', '.join(file.schema_arrow.names)}"
            )
        for batch in file.iter_batches(batch_size=256, columns=[corpus.text_field]):
            yield from _cells(batch.column(0))


def _cells(column: pa.Array) -> list[Any]:
    """Values of a column, None for one that is not UTF-8, as Parquet does not see to it."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_cell(scalar) for scalar in column]


def _cell(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None


def _read_jsonl(corpus: Corpus, path: str) -> Iterator[Any]:
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
            except (ValueError, RecursionError):
                yield None
                continue
            text = record.get(corpus.text_field) if isinstance(record, dict) else None
            found = found or isinstance(text, str)
            yield text
    if not found:
        log.warning("corpus file %s has no text under corpus.text_field '%s'", path, corpus.text_field)


def _read_text(corpus: Corpus, path: str) -> Iterator[str | None]:
    system, _ = filesystem(str(corpus.path))
    with system.open_input_stream(path) as stream:
        content = bytes(stream.read())
    try:
        yield content.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield None


def _open_hub(corpus: Corpus) -> Any:
    """The streaming dataset of a Hub id."""
    from datasets import load_dataset

    return load_dataset(str(corpus.path), corpus.subset, split=corpus.split, revision=corpus.revision, streaming=True)


def _read_hub(corpus: Corpus, unit: dict[str, Any]) -> Iterator[Any]:
    dataset = _open_hub(corpus).shard(num_shards=unit["of"], index=unit["shard"])
    for row in dataset:
        if corpus.text_field not in row:
            raise DataError(f"corpus.text_field is '{corpus.text_field}'; the dataset has {', '.join(row)}")
        yield row[corpus.text_field]


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
