"""Compressed files that are whole, cut off, damaged, or have something behind their end."""

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.config.sections import CorpusSettings
from dmsae_ray.corpus.compression import gzip_pieces, lines, zstd_pieces
from dmsae_ray.corpus.reading import list_units, read_unit
from dmsae_ray.corpus.skipped import Skipped
from dmsae_ray.errors import DataError

TEXTS = [f"document {i} " + "word " * (i % 50) for i in range(2000)]
CONTENT = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstd}


def read(folder: Path, kind: str, content: bytes) -> Iterator[str | Skipped]:
    (folder / f"a.jsonl.{kind}").write_bytes(content)
    corpus = CorpusSettings(source="jsonl", path=str(folder))
    (unit,) = list_units(corpus)
    return read_unit(corpus, unit)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("behind", [b"\r\n", b"\n", b"\x1f", b"some other text " * 10_000])
def test_what_stands_behind_the_end_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, behind: bytes
) -> None:
    with caplog.at_level(logging.WARNING):
        assert list(read(tmp_path, kind, COMPRESS[kind](CONTENT) + behind)) == TEXTS
    assert f"a.jsonl.{kind}: bytes behind the end of the" in caplog.text


@pytest.mark.parametrize("kind", COMPRESS)
def test_several_members_and_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    parts = [CONTENT[:1000], b"", CONTENT[1000:70_000], CONTENT[70_000:]]
    padding = b"\0" * 512 if kind == "gz" else b""
    assert list(read(tmp_path, kind, b"".join(map(COMPRESS[kind], parts)) + padding)) == TEXTS
    assert caplog.text == ""


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_file_that_is_cut_off_gives_its_documents_first(tmp_path: Path, kind: str) -> None:
    whole = COMPRESS[kind](CONTENT)
    found: list[str | Skipped] = []
    with pytest.raises(DataError, match=rf"^corpus file '[^\n]*a.jsonl.{kind}' is truncated or of another format, b"):
        for text in read(tmp_path, kind, whole[:-9]):
            found.append(text)
    assert found == TEXTS[: len(found)]
    assert len(found) == len(TEXTS) if kind == "gz" else len(found) > 900
    # Who needs less never meets the end.
    reader = read(tmp_path, kind, whole[:-9])
    assert [next(reader) for _ in range(500)] == TEXTS[:500]


@pytest.mark.parametrize("kind", COMPRESS)
def test_what_is_not_compressed_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match="is truncated or of another format, behind document 0"):
        list(read(tmp_path, kind, CONTENT))


@given(st.binary(max_size=5000), st.integers(1, 4000), st.integers(0, 255))
def test_before_damage_all_of_gzip_comes(content: bytes, place: int, byte: int) -> None:
    """The pieces are a beginning of the content; of a plain deflate they are what zlib gives byte by byte."""
    whole = bytearray(gzip.compress(content))
    whole[place % len(whole)] = byte
    expected, reference = b"", zlib.decompressobj(16 + zlib.MAX_WBITS)
    failed = False
    for value in whole:
        try:
            expected += reference.decompress(bytes([value]))
        except zlib.error:
            failed = True
            break
        if reference.eof:
            break
    found = b""
    try:
        for piece in gzip_pieces(BytesIO(bytes(whole)), "name"):
            found += piece
    except (zlib.error, EOFError):
        failed = True
    assert found.startswith(expected) if not failed else found == expected


@given(st.lists(st.binary(max_size=30), max_size=20), st.lists(st.integers(0, 40), max_size=30))
def test_lines_do_not_depend_on_the_pieces(texts: list[bytes], cuts: list[int]) -> None:
    content = b"\n".join(text.replace(b"\n", b"") for text in texts)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(content[at : at + cut])
        at += cut
    found = list(lines(iter([*pieces, content[at:]])))
    assert b"\n".join(found) == content.removesuffix(b"\n")


def test_a_small_file_that_holds_much_is_read_in_pieces() -> None:
    content = b"\0" * 50_000_000
    assert max(len(piece) for piece in gzip_pieces(BytesIO(gzip.compress(content)), "name")) <= 1 << 20
    assert max(len(piece) for piece in zstd_pieces(lambda: pa.BufferReader(zstd(content)), "name")) <= 1 << 20
