"""The file formats of text: one reader per format, an iterator over the documents of a file in order.

A reader takes the corpus settings and a path within their filesystem. It yields the reason (`Skipped`) in place of a
document that cannot be used. To add a format, write its reader, add its suffixes to `SUFFIXES` and the reader to
`READERS`, and add its name to `config.CorpusSettings.source`.
"""

import codecs
import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from dmsae_ray.config import UTF_8, CorpusSettings
from dmsae_ray.corpus.compression import gzip_pieces, lines, zstd_pieces
from dmsae_ray.corpus.saved_dataset import arrow_columns, saved_files
from dmsae_ray.corpus.skipped import Skipped
from dmsae_ray.errors import DataError
from dmsae_ray.files import filesystem, list_files

log = logging.getLogger(__name__)

_PIECE = 1 << 20

SUFFIXES = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".ndjson"),
    "text": (".txt", ".md", ".rst"),
}
"""Suffixes of the files of each source that reads all files of a folder."""


def corpus_files(corpus: CorpusSettings) -> list[str]:
    """Return the files of a corpus in their order, as paths within the filesystem of `corpus.path`.

    Args:
        corpus: settings with a source that reads files: one of `SUFFIXES`, or 'arrow'.

    Raises:
        OSError: the folder cannot be listed.
        DataError: source 'arrow', and the folder is none that `save_to_disk` wrote.
    """
    return saved_files(corpus) if corpus.source == "arrow" else list_files(str(corpus.path), SUFFIXES[corpus.source])


def _read_parquet(corpus: CorpusSettings, path: str) -> Iterator[Any]:
    import pyarrow.parquet as pq  # loads for long, and a plan only needs the suffixes

    system, _ = filesystem(str(corpus.path))
    with system.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        _check_column(corpus, path, file.schema_arrow)
        for batch in file.iter_batches(batch_size=256, columns=[corpus.text_field]):
            yield from map(_decoded, _cells(batch.column(0)))


def _read_arrow(corpus: CorpusSettings, path: str) -> Iterator[Any]:
    system, _ = filesystem(str(corpus.path))
    for column in arrow_columns(system, path, corpus.text_field, partial(_check_column, corpus, path)):
        yield from map(_decoded, _cells(column))


def check_schema(corpus: CorpusSettings, path: str) -> None:
    """Check that a file has the column `corpus.text_field`, and text in it, from its schema alone.

    Nothing is checked of a format without a schema.

    Raises:
        OSError, ArrowException: the file is not of this format.
        DataError: it has no such column, or one of another type.
    """
    system, _ = filesystem(str(corpus.path))
    if corpus.source == "parquet":
        import pyarrow.parquet as pq

        with system.open_input_file(path) as source:
            _check_column(corpus, path, pq.read_schema(source))
    elif corpus.source == "arrow":
        with system.open_input_file(path) as source, pa.ipc.open_stream(source) as stream:
            _check_column(corpus, path, stream.schema)


def _check_column(corpus: CorpusSettings, path: str, schema: pa.Schema) -> None:
    """Check that the file has the column `corpus.text_field`, and that it holds text or messages.

    Raises:
        DataError: it does not; one line.
    """
    field = corpus.text_field
    if field not in schema.names:
        raise DataError(f"corpus.text_field is '{field}'; '{path}' has the columns {', '.join(schema.names)}")
    if schema.names.count(field) > 1:
        raise DataError(f"corpus.text_field is '{field}'; '{path}' has {schema.names.count(field)} columns of it")
    kind = schema.field(field).type
    if not _is_text(kind) and not _is_messages(kind):
        raise DataError(
            f"corpus.text_field is '{field}', of type {kind} in '{path}'; it must be a string, "
            "binary that is UTF-8, or a list of messages {role, content}"
        )


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
        return Skipped.ENCODING


def _cells(column: pa.Array) -> list[Any]:
    """Return the values of a column, or the reason of one that is not UTF-8, which Parquet does not check."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_cell(scalar) for scalar in column]


def _cell(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Skipped.ENCODING


def _read_jsonl(corpus: CorpusSettings, path: str) -> Iterator[Any]:
    found, pieces, encoding = False, _jsonl_pieces(corpus, path), corpus.encoding
    if not _keeps_lines(encoding):
        pieces = (text.encode(errors="surrogatepass") for text in codecs.iterdecode(pieces, encoding))
        encoding = UTF_8
    for line in lines(pieces):
        if not line.strip():
            continue
        try:
            record = json.loads(line if encoding == UTF_8 else line.decode(encoding))
        except UnicodeError:
            yield Skipped.ENCODING
            continue
        except (ValueError, RecursionError):
            yield Skipped.NOT_JSON
            continue
        there = isinstance(record, dict) and corpus.text_field in record
        text = record[corpus.text_field] if there else Skipped.NO_FIELD
        found = found or isinstance(text, str | list)
        yield text
    if not found:
        log.warning("corpus file %s has no text under corpus.text_field '%s'", path, corpus.text_field)


def first_keys(corpus: CorpusSettings, path: str) -> list[str] | None:
    """Return the keys of the first document of a JSON lines file; none if it has none; None if it is an array."""
    for line in lines(_jsonl_pieces(corpus, path)):
        try:
            record = json.loads(line.decode(corpus.encoding))
        except (ValueError, RecursionError):
            return []
        if isinstance(record, list):
            return None
        return list(record) if isinstance(record, dict) else []
    return []


def _keeps_lines(encoding: str) -> bool:
    """Return whether a line can be found before it is decoded, so that one damaged line does not spoil the others."""
    return "{\n}".encode(encoding) == b"{\n}"


def _jsonl_pieces(corpus: CorpusSettings, path: str) -> Iterator[bytes]:
    system, _ = filesystem(str(corpus.path))
    opened = partial(system.open_input_stream, path, compression=None)
    if path.endswith(".zst"):
        yield from zstd_pieces(opened, path)
        return
    with opened() as raw:
        yield from gzip_pieces(raw, path) if path.endswith(".gz") else iter(partial(raw.read, _PIECE), b"")


def _read_text(corpus: CorpusSettings, path: str) -> Iterator[str | Skipped]:
    system, _ = filesystem(str(corpus.path))
    with system.open_input_stream(path) as stream:
        content = bytes(stream.read())
    try:
        yield content.decode("utf-8-sig" if corpus.encoding == UTF_8 else corpus.encoding)
    except UnicodeError:
        yield Skipped.ENCODING


READERS: dict[str, Callable[[CorpusSettings, str], Iterator[Any]]] = {
    "parquet": _read_parquet,
    "arrow": _read_arrow,
    "jsonl": _read_jsonl,
    "text": _read_text,
}
"""Reader of each source that reads files."""
