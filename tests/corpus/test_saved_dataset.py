"""Folders of `Dataset.save_to_disk`: read in the order of state.json; one line where they are not whole."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, disable_progress_bars

from dmsae_ray.config.sections import CorpusSettings
from dmsae_ray.corpus.conversation import Conversation
from dmsae_ray.corpus.reading import first_document, list_units, read_unit
from dmsae_ray.corpus.skipped import Skipped
from dmsae_ray.errors import DataError
from dmsae_ray.store.identity import corpus_content

disable_progress_bars()
TEXTS = [f"document {i} " + "word " * (i % 7) for i in range(2500)]
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def corpus_at(path: Path, **more: Any) -> CorpusSettings:
    return CorpusSettings.model_validate({"source": "arrow", "path": str(path), **more})


def read_all(corpus: CorpusSettings) -> list[Any]:
    return [None if isinstance(text, Skipped) else text for u in list_units(corpus) for text in read_unit(corpus, u)]


def save(path: Path, texts: list[Any] = TEXTS, shards: int = 2) -> Path:
    Dataset.from_dict({"text": texts, "n": list(range(len(texts)))}).save_to_disk(str(path), num_shards=shards)
    return path


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_saved_dataset_is_read_in_the_order_of_its_state(tmp_path: Path) -> None:
    corpus = corpus_at(save(tmp_path / "a"))
    assert len(list_units(corpus)) == 2
    assert read_all(corpus) == TEXTS
    assert first_document(corpus) == TEXTS[0]
    files = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in (1, 0)]
    (tmp_path / "a" / "data-more.arrow").write_bytes(b"of somebody else")
    change(tmp_path / "a" / "state.json", _data_files=files)
    assert read_all(corpus) == TEXTS[1250:] + TEXTS[:1250]


def test_a_selection_is_what_datasets_itself_reads(tmp_path: Path) -> None:
    chosen = Dataset.from_dict({"text": TEXTS}).shuffle(seed=3).select(range(300))
    chosen.save_to_disk(str(tmp_path / "a"))
    assert read_all(corpus_at(tmp_path / "a")) == list(chosen["text"])


def test_messages_and_documents_without_text(tmp_path: Path) -> None:
    Dataset.from_dict({"messages": [CHAT, None, CHAT]}).save_to_disk(str(tmp_path / "a"))
    got = read_all(corpus_at(tmp_path / "a", text_field="messages"))
    assert got[1] is None and isinstance(got[0], Conversation) and json.loads(got[2]) == CHAT
    assert read_all(corpus_at(save(tmp_path / "b", ["a", None, "", "ü"]))) == ["a", None, None, "ü"]


def test_one_split_of_a_dataset_dict(tmp_path: Path) -> None:
    parts = {name: Dataset.from_dict({"text": [f"{name} {i}" for i in range(5)]}) for name in ("dev", "test")}
    DatasetDict(parts).save_to_disk(str(tmp_path / "a"))
    assert read_all(corpus_at(tmp_path / "a", split="test")) == list(parts["test"]["text"])
    with pytest.raises(DataError, match=r"^corpus.split is 'train'; '[^\n]*a' has dev, test$"):
        list_units(corpus_at(tmp_path / "a"))


def test_the_key_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    one, two = corpus_at(save(tmp_path / "a")), corpus_at(save(tmp_path / "b"))
    key = corpus_content(one)
    assert key is not None and key == corpus_content(two)
    change(tmp_path / "b" / "state.json", _fingerprint="another")
    assert corpus_content(two) == key
    save(tmp_path / "c", [*TEXTS[:-1], "changed"])
    assert corpus_content(corpus_at(tmp_path / "c")) != key


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda a: (a / "state.json").unlink(),
            r"corpus.path '.*a' has no state.json and no dataset_dict.json;",
        ),
        (lambda a: (a / "state.json").write_text('{"_data_fi'), r"corpus.path: .*state.json is truncated or was not w"),
        (lambda a: (a / "dataset_dict.json").write_text("[]"), r"corpus.path: .*dataset_dict.json is truncated or was"),
        (
            lambda a: change(a / "state.json", _indices_files=[{"filename": "indices.arrow"}]),
            r"corpus.path: .*state.json orders the rows by an index file.*`flatten_indices\(\)`",
        ),
        (
            lambda a: change(a / "state.json", _data_files=[{"filename": "../b/data.arrow"}]),
            r"corpus.path: .*state.json lists the file '../b/data.arrow'; it must be a name in that folder",
        ),
        (lambda a: change(a / "state.json", _data_files=[]), r"corpus.path '.*a' has no file of source 'arrow'"),
        (
            lambda a: (a / "data-00001-of-00002.arrow").unlink(),
            r"corpus file '.*data-00001-of-00002.arrow' (is truncated|cannot be read)",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_said_in_one_line(tmp_path: Path, damage: Any, says: str) -> None:
    damage(save(tmp_path / "a"))
    with pytest.raises(DataError, match=f"^{says}[^\n]*$"):
        read_all(corpus_at(tmp_path / "a"))


@pytest.mark.parametrize("cut", [1, 8, 3000, 29_000])
def test_a_file_that_is_cut_off_gives_what_is_whole_and_then_an_error(tmp_path: Path, cut: int) -> None:
    path = save(tmp_path / "a", shards=1) / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    corpus, got = corpus_at(tmp_path / "a"), []
    with pytest.raises(DataError, match=r"^corpus file '[^\n]*arrow' is truncated or of another format, behind docu"):
        for text in read_unit(corpus, list_units(corpus)[0]):
            got.append(text)
    assert got == TEXTS[: len(got)] and len(got) == (2500 if cut <= 8 else 2000 if cut == 3000 else 1000)


def test_no_byte_of_damage_ends_the_process(tmp_path: Path) -> None:
    path = save(tmp_path / "a", TEXTS[:40], shards=1) / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x7F]) + content[place + 1 :])
        try:
            read_all(corpus_at(tmp_path / "a"))
        except DataError as error:
            assert "\n" not in str(error)


def test_a_cell_that_is_not_utf8_is_skipped_and_other_types_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a", ["a", "b", "c"], shards=1) / "data-00000-of-00001.arrow"
    for column in (pa.array([b"a", b"caf\xe9", b"c"]).view(pa.string()), pa.array([b"a", b"\xff", b"c"])):
        table = pa.table({"text": column})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
        assert read_all(corpus_at(tmp_path / "a")) == ["a", None, "c"]
    with pytest.raises(DataError, match=r"^corpus.text_field is 'body'; '[^\n]*' has the columns text, n$"):
        read_all(corpus_at(save(tmp_path / "b"), text_field="body"))
    with pytest.raises(DataError, match=r"^corpus.text_field is 'n', of type int64 in '[^\n]*arrow'; it must be"):
        read_all(corpus_at(tmp_path / "b", text_field="n"))
