"""The file formats of text: one reader per format, an iterator over the documents of a file in order.

A reader takes the corpus settings and a path within their filesystem. It yields None for a document that is empty or
corrupt and can be skipped. To add a format, write its reader, add its suffixes to `SUFFIXES` and the reader to
`READERS`, and add its name to `config.CorpusSettings.source`.
"""

import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from dmsae_ray.config import CorpusSettings
from dmsae_ray.corpus.compression import gzip_pieces, lines, zstd_pieces
from dmsae_ray.errors import DataError
from dmsae_ray.files import filesystem

log = logging.getLogger(__name__)

_PIECE = 1 << 20

SUFFIXES = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".ndjson"),
    "text": (".txt", ".md", ".rst"),
}
"""Suffixes of the files of each source that reads files."""


def _read_parquet(corpus: CorpusSettings, path: str) -> Iterator[Any]:
    import pyarrow.parquet as pq  # loads for long, and a plan only needs the suffixes

    system, _ = filesystem(str(corpus.path))
    with system.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        if corpus.text_field not in file.schema_arrow.names:
            raise DataError(
                f"corpus.text_field is '{corpus.text_field}'; '{path}' has the columns "
                f"{', '.join(file.schema_arrow.names)}"
            )
        kind = file.schema_arrow.field(corpus.text_field).type
        if not _is_text(kind) and not _is_messages(kind):
            raise DataError(
                f"corpus.text_field is '{corpus.text_field}', of type {kind} in '{path}'; it must be a string, "
                "binary that is UTF-8, or a list of messages {role, content}"
            )
        for batch in file.iter_batches(batch_size=256, columns=[corpus.text_field]):
            yield from map(_decoded, _cells(batch.column(0)))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        check(kind)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_null,
        )
    )


def _is_messages(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    return {"role", "content"} <= {kind.value_type.field(i).name for i in range(kind.value_type.num_fields)}


def _decoded(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _cells(column: pa.Array) -> list[Any]:
    """Return the values of a column; None for a value that is not UTF-8, which Parquet does not check."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_cell(scalar) for scalar in column]


def _cell(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None


def _read_jsonl(corpus: CorpusSettings, path: str) -> Iterator[Any]:
    found = False
    for line in lines(_jsonl_pieces(corpus, path)):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield None
            continue
        text = record.get(corpus.text_field) if isinstance(record, dict) else None
        found = found or isinstance(text, str | list)
        yield text
    if not found:
        log.warning("corpus file %s has no text under corpus.text_field '%s'", path, corpus.text_field)


def _jsonl_pieces(corpus: CorpusSettings, path: str) -> Iterator[bytes]:
    system, _ = filesystem(str(corpus.path))
    opened = partial(system.open_input_stream, path, compression=None)
    if path.endswith(".zst"):
        yield from zstd_pieces(opened, path)
        return
    with opened() as raw:
        yield from gzip_pieces(raw, path) if path.endswith(".gz") else iter(partial(raw.read, _PIECE), b"")


def _read_text(corpus: CorpusSettings, path: str) -> Iterator[str | None]:
    system, _ = filesystem(str(corpus.path))
    with system.open_input_stream(path) as stream:
        content = bytes(stream.read())
    try:
        yield content.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield None


READERS: dict[str, Callable[[CorpusSettings, str], Iterator[Any]]] = {
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
    "text": _read_text,
}
"""Reader of each source that reads files."""
