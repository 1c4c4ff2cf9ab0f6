"""Two sweeps that want one cycle at the same moment: one trains it, whatever happens to it, and the other waits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmsae_ray.files.folder import Folder
from dmsae_ray.sweep.training_marks import MARKS, TrainingMarks

PROGRAM = """
import json, sys, time
from pathlib import Path
from dmsae_ray.distill.cycle_store import DirectoryCycleStore
from dmsae_ray.files.folder import Folder
from dmsae_ray.sweep.training_marks import TrainingMarks
from tests.distill.synthetic import Synthetic, run

folder, sweep, seconds, stalled = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])

class Slow(Synthetic):
    def batches(self, start, stop):
        for x in super().batches(start, stop):
            time.sleep(seconds)
            yield x

marks = TrainingMarks(Folder(folder), sweep, beat_seconds=0.5, stalled_seconds=stalled)
said = lambda what: print(json.dumps(what), flush=True)
result = run(
    Slow(), store=DirectoryCycleStore(folder), others=marks, window_steps=5, cycles=1,
    on_wait=lambda cycle, arm: said({"waits": [cycle, arm]}),
    on_window=lambda window: None if window.cached else said({"trains": window.cycle}),
)
said({"core": [rows.rows.sum().item() for rows in result.cores], "cached": [r.cached for r in result.reports]})
"""


def started(folder: Path, sweep: str, seconds: float = 0.05, stalled: float = 60.0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, str(folder), sweep, str(seconds), str(stalled)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def said(process: "subprocess.Popen[str]", key: str) -> object:
    """The next line with this key."""
    assert process.stdout is not None
    for line in process.stdout:
        if key in (found := json.loads(line)):
            return found[key]
    raise AssertionError(f"it ended without '{key}'")


def end(*processes: "subprocess.Popen[str]") -> list[list[dict[str, object]]]:
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [[json.loads(line) for line in output.splitlines()] for output in outputs]


@pytest.mark.slow
def test_of_two_sweeps_at_the_same_moment_one_trains_each_cycle(tmp_path: Path) -> None:
    one, other = end(started(tmp_path, "one"), started(tmp_path, "other"))
    assert one[-1]["core"] == other[-1]["core"]
    cached = [one[-1]["cached"], other[-1]["cached"]]
    assert all(a != b for a, b in zip(*cached, strict=True)), cached
    assert sum("waits" in line for line in [*one, *other]) == 2  # once a cycle
    assert list((tmp_path / MARKS).iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_who_waits_goes_on_when_the_other_is_killed_or_hangs(tmp_path: Path, how: signal.Signals) -> None:
    first = started(tmp_path, "first", seconds=0.3)
    assert said(first, "trains") == 0
    second = started(tmp_path, "second")
    assert said(second, "waits") == [0, "distilled"]
    first.send_signal(how)
    (lines,) = end(second)
    assert lines[-1]["cached"] == [False, False]
    first.kill()
    first.wait()


@pytest.mark.slow
def test_a_training_that_lives_and_does_not_get_on_is_not_waited_for_without_end(tmp_path: Path) -> None:
    """It may wait for the very machine that the other holds."""
    first = started(tmp_path, "first", seconds=1000.0)
    while not any((tmp_path / MARKS).glob("*.json")):
        time.sleep(0.05)
    (lines,) = end(started(tmp_path, "second", seconds=0.0, stalled=3.0))
    assert "waits" in lines[0] and lines[-1]["cached"] == [False, False]
    first.kill()
    first.wait()


def test_a_mark_of_the_same_sweep_is_of_an_attempt_that_was_lost(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    lost, again, other = (TrainingMarks(folder, name, beat_seconds=0.2) for name in ("mine", "mine", "another"))
    assert lost.begin("key", wait=True)
    assert not other.begin("key", wait=True)
    assert again.begin("key", wait=True)
    lost.end()
    time.sleep(0.5)  # two beats
    assert not other.begin("key", wait=True), "the mark that is left is that of the second attempt"
    again.end()
    assert other.begin("key", wait=True)
    other.end()


def test_who_goes_on_from_a_checkpoint_waits_for_nobody(tmp_path: Path) -> None:
    one, other = (TrainingMarks(Folder(str(tmp_path)), name, beat_seconds=0.2) for name in ("one", "other"))
    assert one.begin("key", wait=True) and other.begin("key", wait=False)
    one.end()
    assert [path.name for path in (tmp_path / MARKS).iterdir()] == ["key.json"], "the mark of the one that goes on"
    other.end()


def test_what_is_no_mark_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / MARKS).mkdir()
    (tmp_path / MARKS / "key.json").write_text("{")
    marks = TrainingMarks(Folder(str(tmp_path)), "mine")
    assert marks.begin("key", wait=True)
    marks.end()
