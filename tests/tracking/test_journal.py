import json
import math
import multiprocessing
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files.retry import patience
from dmsae_ray.tracking.journal import DeliveryMarks, Journal, JournalEntry, Mark, Record, read_journal
from tests.small_disk import fill, small_disk

ENTRIES = [JournalEntry("a", "metric", "loss", 0.5, step) for step in range(5)]


def test_a_record_is_written_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.append(ENTRIES, 1) == 5
        assert journal.append([*ENTRIES, JournalEntry("a", "metric", "loss", 9.0, 3)], 2) == 0
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.append([*ENTRIES, JournalEntry("b", "metric", "loss", 0.5, 0)], 3) == 1 and journal.count == 6
    assert [r.time for r in read_journal(tmp_path / "j.jsonl")] == [1] * 5 + [3]


def test_the_journal_keeps_its_id(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl") as first:
        name = first.id
    with Journal(tmp_path / "j.jsonl") as again, Journal(tmp_path / "other.jsonl") as other:
        assert again.id == name != other.id


@given(cut=st.integers(min_value=0))
def test_a_torn_end_loses_only_the_torn_records(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "j.jsonl"
    with Journal(path) as journal:
        journal.append(ENTRIES, 1)
    whole = path.read_bytes()
    cut %= len(whole)
    path.write_bytes(whole[:cut])
    kept = max(0, whole[:cut].count(b"\n") - 1)
    with Journal(path) as journal:
        assert journal.count == kept
        assert journal.append(ENTRIES, 2) == 5 - kept
    assert [(r.seq, r.step) for r in read_journal(path)] == [(i + 1, i) for i in range(5)]


def test_zeros_at_the_end_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append(ENTRIES, 1)
    with open(path, "ab") as file:
        file.write(bytes(4096))
    with Journal(path) as journal:
        journal.append([JournalEntry("b", "param", "k", "4")], 2)
    assert len(list(read_journal(path))) == 6


def test_a_corrupt_middle_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.append(ENTRIES, 1)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "{oops\n", *lines[4:]]))
    with pytest.raises(DataError, match="line 4"):
        Journal(path)


@given(st.one_of(st.floats(), st.text(), st.dictionaries(st.text(), st.floats(allow_nan=False))))
def test_lines_are_strict_json_and_read_back(value: float | str | dict[str, float]) -> None:
    record = Record(1, 2, None, "metrics" if isinstance(value, dict) else "metric", "x", value, 3)
    parsed = json.loads(record.to_line(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = Record.from_object(parsed)
    both_nan = isinstance(value, float) and math.isnan(value) and math.isnan(again.metrics["x"])
    assert both_nan or again == record


def test_changes_are_recorded_as_changes_only(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        for status in ("FAILED", "FAILED", "RUNNING", "FAILED", "FINISHED", "FINISHED"):
            journal.append_change("a", "status", "status", status, 1)
        assert journal.last("a", "status", "status") == "FINISHED"
    assert [r.value for r in read_journal(tmp_path / "j.jsonl")] == ["FAILED", "RUNNING", "FAILED", "FINISHED"]


def _open(path: str, answers: "multiprocessing.Queue[str]") -> None:
    try:
        Journal(path)
        answers.put("opened")
    except ConfigError as error:
        answers.put(str(error))


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with Journal(tmp_path / "j.jsonl"):
        process = context.Process(target=_open, args=(str(tmp_path / "j.jsonl"), answers))
        process.start()
        answer = answers.get(timeout=60)
        process.join()
    assert "another process" in answer and "\n" not in answer


def test_positions_are_kept_per_destination_and_survive_rubbish(tmp_path: Path) -> None:
    positions = DeliveryMarks(tmp_path / "p.json")
    assert positions.get("x") == Mark()
    positions.set("x", Mark(7))
    positions.set("y", Mark(9, (3, 4)))
    assert (positions.get("x"), DeliveryMarks(tmp_path / "p.json").get("y")) == (Mark(7), Mark(9, (3, 4)))
    for rubbish in ("{", "[]", '{"x": {"to": "y"}}', '{"x": null}'):
        (tmp_path / "p.json").write_text(rubbish)
        assert positions.get("x") == Mark()
    (tmp_path / "p.json").write_text('{"x": 5}')  # as 0.1.0 wrote it
    assert positions.get("x") == Mark(5)


def test_a_full_disk_is_waited_for_and_no_record_is_torn_or_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many = [JournalEntry("a", "metric", "loss", 0.5, step) for step in range(1000)]
    with small_disk(tmp_path / "disk", "1m") as disk, Journal(disk / "j.jsonl") as journal:
        journal.append(many[:100], 1)
        ballast = fill(disk)
        with pytest.raises(OSError, match="No space left"), patience(0.5):
            journal.append(many, 1)
        assert journal.count == 100
        threading.Timer(2.0, ballast.unlink).start()
        with patience(60):
            assert journal.append(many, 1) == 900
        assert [record.step for record in read_journal(journal.path)] == list(range(1000))
    assert "No space left on device; next try in 1 s" in caplog.text
