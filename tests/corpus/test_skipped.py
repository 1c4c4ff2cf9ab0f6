"""Text in other encodings, and documents that are skipped: each with its reason."""

import codecs
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dmsae_ray.config.sections import CorpusSettings
from dmsae_ray.corpus.reading import list_units, read_unit
from dmsae_ray.corpus.skipped import Skipped, skipped_text
from dmsae_ray.errors import DataError
from dmsae_ray.files.folder import Folder
from dmsae_ray.harvest.tokenising import write_tokens
from tests.small_store import Make

TEXTS = ["caf\u00e9", "na\u00efve \u00fcber", "plain", "\u00bfqu\u00e9?"]


def read(source: str, path: Path, **more: Any) -> list[str | Skipped]:
    corpus = CorpusSettings.model_validate({"source": source, "path": str(path), **more})
    return [text for unit in list_units(corpus) for text in read_unit(corpus, unit)]


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp500", "utf-7"]
)
@pytest.mark.parametrize("suffix", ["txt", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_text_in_another_encoding_is_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    if suffix == "txt":
        for i, text in enumerate(TEXTS):
            (tmp_path / f"{i}.txt").write_bytes(text.encode(encoding))
        assert read("text", tmp_path, encoding=encoding) == TEXTS
        return
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)
    content = lines.encode(encoding)
    if suffix.endswith("gz"):
        content = gzip.compress(content)
    elif suffix.endswith("zst"):
        content = pa.compress(content, "zstd", asbytes=True)
    (tmp_path / f"a.{suffix}").write_bytes(content)
    assert read("jsonl", tmp_path, encoding=encoding) == TEXTS


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    line = json.dumps({"text": "a"}) + "\n"
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF16_LE + line.encode("utf-16-le"))
    assert read("jsonl", tmp_path, encoding="utf-16-le") == ["a"]
    (tmp_path / "a.jsonl").write_bytes(codecs.BOM_UTF8 + line.encode())
    assert read("jsonl", tmp_path) == ["a"]


def test_a_line_of_another_encoding_spoils_itself_alone(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([lines[0].encode(), lines[1].encode("latin-1"), lines[2].encode()]))
    assert read("jsonl", tmp_path) == [TEXTS[0], Skipped.ENCODING, TEXTS[2]]
    shifted = [lines[2].encode("shift_jis"), b'{"text": "\x81"}', lines[2].encode("shift_jis")]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(shifted))
    assert read("jsonl", tmp_path, encoding="shift_jis") == ["plain", Skipped.ENCODING, "plain"]
    (tmp_path / "a.jsonl").write_bytes((lines[2] + "\n").encode("utf-16-le") + b"\x00")
    with pytest.raises(DataError, match=r"^corpus file '[^\n]*a.jsonl' is truncated or of another format, behind docu"):
        read("jsonl", tmp_path, encoding="utf-16-le")


def test_each_reason_is_told_apart(tmp_path: Path) -> None:
    lines = ['{"text": ""}', '{"text": null}', '{"body": "a"}', "[1]", '{"text": 7}', "{torn", '{"text": "\\ud800"}']
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"text": []}', '{"text": [{"role": 1}]}']))
    names = ["EMPTY", "EMPTY", "NO_FIELD", "NO_FIELD", "NOT_TEXT", "NOT_JSON", "ENCODING", "EMPTY", "NOT_TEXT"]
    assert read("jsonl", tmp_path) == [Skipped[name] for name in names]


def test_shares_are_said_by_reason() -> None:
    reasons = {"ENCODING": 9, "EMPTY": 1, "OTHER": 2, "NO_FIELD": 0}
    assert skipped_text(reasons, 8, field="text", encoding="utf-8") == (
        "12 of 20 documents (60.0%) were skipped: 1 empty (5.0%), 9 not utf-8 (45.0%), 2 for a reason not noted (10.0%)"
    )
    assert skipped_text({}, 8, field="text", encoding="utf-8") == ""


def test_tokenising_says_what_it_skipped_and_goes_on_with_the_count(
    tmp_path: Path, ray_cluster: Any, make_experiment: Make, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text").mkdir()
    for i in range(40):
        content = f"caf\u00e9 {i} " + "word " * 400
        (tmp_path / "text" / f"{i:02}.txt").write_bytes(
            b"" if i == 3 else content.encode("latin-1" if i % 4 else "utf-8")
        )
    sizes = {"corpus__tokens": 2_048, "corpus__attribution_tokens": 64, "corpus__eval_tokens": 64}
    place = {"corpus__source": "text", "corpus__path": str(tmp_path / "text"), **sizes}
    with caplog.at_level(logging.WARNING):
        layout = write_tokens(Folder(str(tmp_path / "a")), make_experiment(**place))
    (line,) = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert (
        f"corpus.path '{tmp_path}/text': {layout.skipped} of " in line and "not utf-8 (" in line and "1 empty (" in line
    )
    caplog.clear()
    whole = write_tokens(Folder(str(tmp_path / "b")), make_experiment(**place, corpus__encoding="latin-1"))
    assert (layout.skipped > 4, whole.skipped <= 1, "not " in caplog.text) == (True, True, False)
    place.update(corpus__tokens=10_000_000)
    with pytest.raises(DataError, match=r"which holds only \d+ \(30 of 40 documents \(75.0%\) were skipped: 1 empty"):
        write_tokens(Folder(str(tmp_path / "c")), make_experiment(**place))
