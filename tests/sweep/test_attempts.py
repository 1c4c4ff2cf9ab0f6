"""What is remembered of a trial's attempts: losses are forgiven, errors are counted, progress forgets both."""

from pathlib import Path

import pytest

from dmsae_ray.files.folder import Folder
from dmsae_ray.sweep.attempts import LOSSES_PER_FAILURE, AttemptLog


def attempt(folder: Path, most: int = 3, session: str = "a") -> AttemptLog:
    return AttemptLog(Folder(str(folder)), most, session)


def test_losses_are_forgiven_for_long(tmp_path: Path) -> None:
    for _ in range(LOSSES_PER_FAILURE * 2 + 1):
        assert attempt(tmp_path, most=1).begin() is None
    reason = attempt(tmp_path, most=1).begin()
    assert reason is not None and "its workers were lost 21 times without progress" in reason and "\n" not in reason


def test_progress_forgets_losses_and_errors(tmp_path: Path) -> None:
    for _ in range(100):
        log = attempt(tmp_path, most=1)
        assert log.begin() is None
        log.progress()
        log.progress()
        log.fail("CUDA error", permanent=False)
    assert attempt(tmp_path, most=1).begin() is None


@pytest.mark.parametrize("most", [0, 1, 3])
def test_an_error_is_tried_again_as_often_as_asked(tmp_path: Path, most: int) -> None:
    for _ in range(most + 1):
        log = attempt(tmp_path, most)
        assert log.begin() is None
        log.fail("RuntimeError: it is broken", permanent=False)
    reason = attempt(tmp_path, most).begin()
    assert reason is not None and reason.startswith("RuntimeError: it is broken (failed")
    assert f"{most + 1} times without progress; resources.max_failures is {most}" in reason


def test_a_permanent_error_ends_all_attempts_of_a_command_and_not_those_of_the_next(tmp_path: Path) -> None:
    log = attempt(tmp_path)
    assert log.begin() is None
    log.fail("shard 3 does not have its checksum", permanent=True)
    log.fail("RuntimeError: the other worker is gone", permanent=False)  # it came of the first
    assert attempt(tmp_path).begin() == "shard 3 does not have its checksum"
    assert attempt(tmp_path).begin() == "shard 3 does not have its checksum"
    assert attempt(tmp_path, session="b").begin() is None
    assert attempt(tmp_path, session="b").begin() is None


def test_counts_of_another_command_do_not_count(tmp_path: Path) -> None:
    for session in "abcdefgh":
        log = attempt(tmp_path, 1, session)
        assert log.begin() is None
        log.fail("an error", permanent=False)
