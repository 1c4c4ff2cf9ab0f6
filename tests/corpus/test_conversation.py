"""Conversations in files: what is one, and what is skipped."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dmsae_ray.config.sections import CorpusSettings
from dmsae_ray.corpus.conversation import Conversation, conversation
from dmsae_ray.corpus.reading import first_document, list_units, read_unit
from dmsae_ray.corpus.skipped import Skipped
from dmsae_ray.errors import DataError

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def read(path: Path, source: str) -> list[str | None]:
    corpus = CorpusSettings.model_validate({"source": source, "path": str(path), "text_field": "messages"})
    return [None if isinstance(text, Skipped) else text for u in list_units(corpus) for text in read_unit(corpus, u)]


def test_messages_of_jsonl_are_read_and_what_is_none_is_skipped(tmp_path: Path) -> None:
    cells: list[Any] = [
        CHAT,
        "plain",
        [],
        [{"role": "user"}],
        [{"content": "a"}],
        ["a"],
        7,
        [{"role": 1, "content": "a"}],
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"messages": cell}) + "\n" for cell in cells))
    got = read(path, "jsonl")
    assert got[1] == "plain" and got[2:] == [None] * 6
    assert isinstance(got[0], Conversation) and not isinstance(got[1], Conversation)
    assert json.loads(str(got[0])) == CHAT
    corpus = CorpusSettings.model_validate({"source": "jsonl", "path": str(path), "text_field": "messages"})
    assert isinstance(first_document(corpus), Conversation)


def test_messages_of_parquet_have_the_keys_that_have_a_value(tmp_path: Path) -> None:
    other = [{"role": "tool", "content": "c", "name": "clock"}]
    pq.write_table(pa.table({"messages": [CHAT, other, None, []]}), tmp_path / "a.parquet")
    got = read(tmp_path / "a.parquet", "parquet")
    assert [json.loads(chat) for chat in got[:2] if chat] == [CHAT, other]
    assert got[2:] == [None, None]


def test_a_list_of_anything_else_is_refused_by_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"messages": [["a"], ["b"]]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"of type list<.*string> in .* or a list of messages \{role, content\}"):
        read(tmp_path / "a.parquet", "parquet")


def test_half_a_surrogate_pair_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user", "content": "x \\ud800"}]}\n')
    assert read(tmp_path / "a.jsonl", "jsonl") == [None]


def test_content_in_parts_is_a_conversation() -> None:
    assert conversation([{"role": "user", "content": [{"type": "text", "text": "a"}]}]) is not None
