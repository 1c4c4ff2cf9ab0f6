"""Readers of every kind of corpus, without Ray; and through Ray in order."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmsae_ray.config.sections import CorpusSettings
from dmsae_ray.corpus.reading import list_units, read_unit
from dmsae_ray.corpus.skipped import Skipped
from dmsae_ray.errors import DataError
from dmsae_ray.harvest.corpus_dataset import documents

TEXTS = [f"document {i} " + "word " * i for i in range(40)]


def read_all(corpus: CorpusSettings) -> list[str | None]:
    return [None if isinstance(text, Skipped) else text for u in list_units(corpus) for text in read_unit(corpus, u)]


def corpus_at(source: str, path: Path, **more: Any) -> CorpusSettings:
    return CorpusSettings.model_validate({"source": source, "path": str(path), **more})


def write_jsonl(path: Path, lines: list[str]) -> None:
    data = "\n".join(lines).encode() + b"\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        path.write_bytes(pa.compress(data, "zstd", asbytes=True))
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_jsonl_counts_what_it_cannot_read(tmp_path: Path, suffix: str) -> None:
    lines = [json.dumps({"body": text}) for text in TEXTS]
    write_jsonl(tmp_path / f"a.{suffix}", lines[:20])
    write_jsonl(tmp_path / f"b.{suffix}", ["{torn", '{"body": ""}', '{"body": 7}', "[]", *lines[20:]])
    got = read_all(corpus_at("jsonl", tmp_path, text_field="body"))
    assert [text for text in got if text] == TEXTS
    assert got.count(None) == 4


def test_jsonl_line_that_no_text_can_come_of_is_skipped(tmp_path: Path) -> None:
    deep = "[" * 200_000
    write_jsonl(tmp_path / "a.jsonl", ['{"text": "a"}', '{"text": "x \\ud800 y"}', deep, '{"text": "b"}'])
    assert read_all(corpus_at("jsonl", tmp_path)) == ["a", None, None, "b"]


@pytest.mark.parametrize(("kind", "of_bytes"), [(pa.string(), pa.binary()), (pa.large_string(), pa.large_binary())])
def test_parquet_cell_that_is_not_utf8_is_skipped(tmp_path: Path, kind: pa.DataType, of_bytes: pa.DataType) -> None:
    cells = [text.encode() for text in TEXTS]
    cells[7] = b"caf\xe9"
    pq.write_table(pa.table({"text": pa.array(cells, of_bytes).view(kind)}), tmp_path / "a.parquet")
    assert read_all(corpus_at("parquet", tmp_path)) == [*TEXTS[:7], None, *TEXTS[8:]]


def test_damaged_document_of_a_dataset_says_what_can_skip_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ['{"text": "a"}', "{torn", '{"text": "b"}'])
    with pytest.raises(DataError, match=r"^corpus.path '.*' has a damaged file, and source 'huggingface' cannot skip"):
        read_all(corpus_at("huggingface", tmp_path))
    assert read_all(corpus_at("jsonl", tmp_path)) == ["a", None, "b"]


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [*TEXTS, None, ""], "n": range(42)}), tmp_path / "a.parquet")
    got = read_all(corpus_at("parquet", tmp_path / "a.parquet"))
    assert got == [*TEXTS, None, None]
    with pytest.raises(DataError, match=r"corpus.text_field is 'body'; .* has the columns text, n"):
        read_all(corpus_at("parquet", tmp_path, text_field="body"))


def test_text_folder(tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i:03}.txt").write_text(text)
    (tmp_path / "yy.txt").write_text("with a byte order mark", encoding="utf-8-sig")
    (tmp_path / "zz.txt").write_bytes(b"\xff\xfe broken")
    assert read_all(corpus_at("text", tmp_path)) == [*TEXTS, "with a byte order mark", None]


@pytest.mark.parametrize(
    ("source", "name"), [("jsonl", "a.jsonl.gz"), ("jsonl", "a.jsonl.zst"), ("parquet", "a.parquet")]
)
def test_truncated_file_is_named(tmp_path: Path, source: str, name: str) -> None:
    path = tmp_path / name
    if source == "parquet":
        pq.write_table(pa.table({"text": TEXTS}), path)
    else:
        write_jsonl(path, [json.dumps({"text": text}) for text in TEXTS])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"corpus file '.*{name}' is truncated"):
        read_all(corpus_at(source, path))


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(json.dumps({"text": "a"}).encode() * 10_000))
    content[10] |= 0b110  # of the first block: a type that there is not
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    with pytest.raises(
        DataError, match=r"^corpus file '.*a.jsonl.gz' is truncated or of another format[^\n]*: Error -3"
    ):
        read_all(corpus_at("jsonl", tmp_path))


def test_credentials_of_a_uri_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^corpus.path 'file:///\S*' has no file") as caught:
        list_units(CorpusSettings(source="text", path=f"{tmp_path.as_uri()}?token=secret"))
    assert "secret" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus.path '.*' has no file of source 'parquet'"):
        list_units(corpus_at("parquet", tmp_path))
    with pytest.raises(DataError, match=r"^corpus.path '.*missing'[^\n]*$"):
        list_units(corpus_at("text", tmp_path / "missing"))


def test_ray_gives_the_documents_in_order(tmp_path: Path, ray_cluster: Any) -> None:
    texts = [f"{i} " + "x" * 50_000 for i in range(100)]
    for part in range(10):
        write_jsonl(tmp_path / f"{part}.jsonl", [json.dumps({"text": t}) for t in texts[part * 10 : part * 10 + 10]])
    from dmsae_ray.harvest.ray_data import quiet_context

    corpus = corpus_at("jsonl", tmp_path)
    units = list_units(corpus)
    with quiet_context(preserve_order=True):
        assert [row["text"] for row in documents(corpus, units).iter_rows()] == texts
        # From within the eighth unit on: those before it are not read, its first three documents are left out.
        for part in range(7):
            (tmp_path / f"{part}.jsonl").unlink()
        rows = list(documents(corpus, units, first=7, skip=3).iter_rows())
    assert [row["text"] for row in rows] == texts[73:]
    assert [row["unit"] for row in rows] == [7] * 7 + [8] * 10 + [9] * 10


def test_stdlib_text_is_the_same_every_time() -> None:
    first = read_all(CorpusSettings(source="stdlib"))
    assert len(first) > 1000 and first == read_all(CorpusSettings(source="stdlib"))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.string(), pa.large_string(), pa.string_view()])
def test_parquet_of_bytes_that_are_utf8_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    """A cell of bytes that are not UTF-8 is skipped."""
    cells: list[Any] = [*TEXTS, None, "ümlaut"]
    pq.write_table(pa.table({"text": pa.array(cells).cast(kind)}), tmp_path / "a.parquet")
    assert read_all(corpus_at("parquet", tmp_path)) == [*TEXTS, None, "ümlaut"]
    if kind == pa.binary():
        pq.write_table(pa.table({"text": pa.array([b"a", b"\xff"], kind)}), tmp_path / "a.parquet")
        assert read_all(corpus_at("parquet", tmp_path)) == ["a", None]


@pytest.mark.parametrize(
    "values, kind", [([1, 2], "int64"), ([["a"], ["b"]], "list<element: string>"), ([1.5], "double")]
)
def test_parquet_of_another_type_is_refused_by_name_and_type(tmp_path: Path, values: list[Any], kind: str) -> None:
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf"^corpus.text_field is 'text', of type {kind} in '[^\n]*a.parquet'; it m"):
        read_all(corpus_at("parquet", tmp_path))
