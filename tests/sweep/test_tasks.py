"""Independent pieces of work on a real Ray cluster."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.errors import DataError, TransientError
from dmsae_ray.sweep import run_tasks, tasks


def test_results_come_with_their_numbers(ray_cluster: Any) -> None:
    def square(n: int, wait: float) -> int:
        time.sleep(wait)
        return n * n

    found = list(run_tasks(square, [(3, 1.0), (4, 0.0), (5, 0.0)], cpus=0.5))
    assert sorted(found) == [(0, 9), (1, 16), (2, 25)]
    assert list(run_tasks(square, [])) == []


def test_an_error_of_ours_is_the_error(ray_cluster: Any) -> None:
    def fail(n: int) -> int:
        raise DataError(f"piece {n} is damaged")

    with pytest.raises(DataError, match=r"^piece 7 is damaged$"):
        list(run_tasks(fail, [(7,)]))

    # Where something can stand in its place, it takes no other along.
    found = dict(run_tasks(lambda n: fail(n) if n else n, [(0,), (7,)], instead=lambda error: -len(str(error))))
    assert found == {0: 0, 1: -len("piece 7 is damaged")}

    def other() -> int:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        list(run_tasks(other, [()]))


def test_a_lost_process_is_run_again_and_one_that_always_ends_is_told(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(place: str) -> int:
        if not Path(place).exists():
            Path(place).touch()
            os._exit(1)
        return 5

    assert list(run_tasks(once, [(str(tmp_path / "tried"),)])) == [(0, 5)]

    def never() -> int:
        os._exit(1)

    monkeypatch.setattr(tasks, "RETRIES", 1)
    assert [n for n, _ in run_tasks(never, [()], instead=lambda error: len(str(error)))] == [0]
    with pytest.raises(TransientError, match=r"^a task was lost, and 1 repetitions too \(WorkerCrashedError"):
        list(run_tasks(never, [()]))


def test_who_leaves_early_leaves_nothing_running(ray_cluster: Any, tmp_path: Path) -> None:
    def work(n: int, place: str) -> int:
        if n:
            time.sleep(4)
            (Path(place) / str(n)).touch()
        return n

    pieces = run_tasks(work, [(n, str(tmp_path)) for n in range(4)])
    assert next(pieces) == (0, 0)
    pieces.close()
    time.sleep(6)
    assert list(tmp_path.iterdir()) == []
