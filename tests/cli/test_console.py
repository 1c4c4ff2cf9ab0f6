"""What is printed on a terminal beside the live table, and in a log that is none."""

import io
import logging
import re
import time

import pytest
from rich.console import Console

from dmsae_ray.cli import console
from dmsae_ray.harvest.progress import HarvestProgress
from dmsae_ray.report.tables import Table
from tests.cli.test_progress_table import progress


def test_a_log_is_told_now_and_then_how_far_a_harvest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    listen = console.Screen(Console(file=out, width=200)).harvest()
    for second in range(0, 200, 10):
        now[0] = float(second)
        listen(HarvestProgress("activations", second * 1000, 1_000_000, 1000.0, second * 10**7))
    listen(HarvestProgress("activations", 1_000_000, 1_000_000, 1000.0, 10**10))
    lines = out.getvalue().splitlines()
    assert lines == [
        "  activations: 60,000 of 1,000,000 tokens, 1,000 tokens/s, 0.6 GB, 0 h 16 min left",
        "  activations: 120,000 of 1,000,000 tokens, 1,000 tokens/s, 1.2 GB, 0 h 15 min left",
        "  activations: 180,000 of 1,000,000 tokens, 1,000 tokens/s, 1.8 GB, 0 h 14 min left",
        "  activations: 1,000,000 tokens (10,000 MB, 1,000 tokens/s)",
    ]


def test_lines_and_warnings_stand_above_the_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(console.time, "time", lambda: 15_000.0)
    out = io.StringIO()
    with console.Screen(Console(file=out, width=80, height=20, force_terminal=True)) as screen:
        assert screen.live
        screen.harvest()(HarvestProgress("activations", 400, 1000, 10.0, 2 * 10**9))
        with screen.showing(progress()):
            screen.waits("waiting for room on the cluster: 2 x a worker")
            screen.say("said")
            logging.getLogger("dmsae_ray.some.room").warning("a machine was lost")
            until = time.monotonic() + 120
            while "carry" not in out.getvalue().split("was lost")[-1] and time.monotonic() < until:
                time.sleep(0.05)
    blocks = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", block) for block in out.getvalue().split("said")]
    assert "a machine was lost\n" in blocks[-1]
    lines = blocks[-1].split("a machine was lost\n")[1].splitlines()
    assert lines[0].startswith("activations ") and "400 of 1.00k tokens" in lines[0]
    assert lines[1].split() == ["trial", "cycle", "step", "tokens/s", "FVU", "L0", "core", "carry", "ETA"]
    assert [line.split()[0] for line in lines[2:5]] == ["k20-tau0.3-seed0", "k20-tau0.5-seed0", "k20-tau0.3-seed1"]
    assert lines[7].startswith("waiting for room on the cluster: 2 x a worker")
    assert not any("_LogLines" in str(handler) for handler in logging.getLogger().handlers)


def test_without_a_terminal_for_it_there_is_no_live_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a log may be coloured
    with console.Screen() as screen, screen.showing(progress()):
        assert not screen.live
        screen.say("one line")
    assert capsys.readouterr().out == "one line\n"
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    with console.Screen(Console(file=out, force_terminal=True)) as screen, screen.showing(progress()):
        assert not screen.live
        screen.say("one line")
    assert out.getvalue() == "one line\n"


def test_names_that_look_like_codes_of_emoji_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with console.Screen() as screen:
        screen.say("2 replicas: my_worlds:one:two, my_worlds:one: 3")
        screen.console.print(Table("scores", ("score",), (("mine:one:",),)).rich())
    out = capsys.readouterr().out
    assert "my_worlds:one:two, my_worlds:one: 3\n" in out and "mine:one:" in out
