"""The table of a sweep at several widths and heights, with and without UTF-8 and colour."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from dmsae_ray.cli.progress import SweepProgress
from dmsae_ray.cli.progress_table import SweepTable, duration, short
from dmsae_ray.cli.progress_view import CycleValues
from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.plan.work import work_of

DEFAULT = {"coverage": [0.3, 0.5], "seeds": [0, 1]}


def progress(**sweep: Any) -> SweepProgress:
    """Of the first trials one has failed and two run: one in its cycle 1 of 3, one just begun."""
    tree = {"name": "x", "model": {"name": "tiny", "layer": 1}, "sae": {"k": 20}, "distill": {"cycles": 3}}
    found = SweepProgress(work_of(parse_experiment({**tree, "sweep": sweep or DEFAULT})))
    a, b, c = (trial.trial_id for trial in found.work.trials[:3])
    found.begin(c, 0.0)
    found.end(c, "failed", "it broke")
    found.begin(a, 0.0)
    tokens = found.work.training_tokens
    found.window(a, "distilled", 0, tokens / 2, 5000.0)
    found.window(a, "distilled", 0, tokens, 10_000.0)
    found.cycle(a, "distilled", 0, CycleValues(128, None, 0.1234, 21.37), 10_000.0)
    found.begin(b, 10_000.0)
    found.window(a, "distilled", 1, tokens / 2, 15_000.0)
    return found


def drawn(table: SweepTable, width: int, encoding: str = "utf-8", **console: Any) -> list[str]:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    Console(file=out, width=width, **console).print(table)
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return out.buffer.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (60, "trial cycle step FVU carry ETA"),
        (80, "trial cycle step tokens/s FVU L0 core carry ETA"),
        (120, "trial k coverage seed cycle step tokens/s FVU L0 core carry ETA"),
        (200, "trial k coverage seed cycle step tokens/s FVU L0 core carry ETA"),
    ],
)
def test_a_narrow_terminal_drops_columns_and_cuts_none(width: int, titles: str) -> None:
    lines = drawn(SweepTable(progress().view(15_000.0), 20), width)
    assert lines[0].split() == titles.split()
    assert max(map(len, lines)) <= width
    cells = lines[1].split()
    assert cells[0] == "k20-tau0.3-seed0" and "1 of 3" in lines[1] and "50%" in cells and "0.123" in cells
    # 500M tokens in 10,000 s; half of this training is left, two more and the control.
    assert "9h 43m" in lines[1]
    assert "starting" in lines[2] and lines[2].startswith("k20-tau0.5-seed0")
    if width >= 80:
        assert "50.0k" in cells and "21.4" in cells and "128" in cells
    if width >= 120:
        assert cells[1:4] == ["20", "0.3", "0"]


def test_what_does_not_fit_is_counted() -> None:
    many = progress(coverage=[0.3, 0.5], seeds=list(range(500)))
    lines = drawn(SweepTable(many.view(15_000.0), 7), 120)
    assert len(lines) == 1 + 3 + 2
    assert [line.split()[0] for line in lines[1:4]] == ["k20-tau0.3-seed0", "k20-tau0.5-seed0", "k20-tau0.3-seed1"]
    assert "failed" in lines[3]
    assert lines[4] == "0 of 1,000 trials finished, 1 failed, 2 running, 997 waiting"
    assert lines[5].startswith("1 of 4,500 trainings, 50.0k tokens/s, about ") and lines[5].endswith(" h left")
    for trial in many.work.trials[3:600]:
        many.begin(trial.trial_id, 0.0)
        many.end(trial.trial_id, "finished")
    lines = drawn(SweepTable(many.view(15_000.0), 7), 120)
    assert len(lines) == 1 + 7 + 1 + 2 and lines[4].split()[0] == many.work.trials[599].trial_id
    assert lines[8:10] == [
        "and 593 trials that are not shown: 593 finished",
        "597 of 1,000 trials finished, 1 failed, 2 running, 400 waiting",
    ]


def test_a_trial_that_collapsed_has_finished_and_says_so() -> None:
    found = progress()
    found.cycle("k20-tau0.3-seed0", "distilled", 1, CycleValues(0, collapsed=True), 20_000.0)
    found.end("k20-tau0.3-seed0", "finished")
    lines = drawn(SweepTable(found.view(20_000.0), 20), 120)
    assert "collapsed" in next(line for line in lines if line.startswith("k20-tau0.3-seed0"))
    assert any("1 of 4 trials finished (1 collapsed), " in line for line in lines)


def test_who_waits_for_whom_is_said() -> None:
    found = progress()
    found.stop()
    found.begin("k20-tau0.3-seed1", 20_000.0)
    lines = drawn(SweepTable(found.view(20_000.0), 20), 120)
    assert "0 of 4 trials finished, 1 running, 3 waiting (1 for cycle 0 of k20-tau0.3-seed1)" in lines


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_can_hold_it(encoding: str) -> None:
    lines = drawn(SweepTable(progress().view(15_000.0), 20), 100, encoding)  # strict: it would raise
    assert ("====----" in lines[1] or "===---" in lines[1]) == (encoding != "utf-8")
    assert "━" in lines[1] or encoding != "utf-8"


def test_without_colour_the_bar_still_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    table = SweepTable(progress().view(15_000.0), 20)
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = "\n".join(drawn(table, 100, force_terminal=True))
    assert re.search(r"\x1b\[[0-9;]*3\d|\x1b\[[0-9;]*9\d|38;5", coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = "\n".join(drawn(table, 100, force_terminal=True))
    assert not re.search(r"\x1b\[[0-9;]*[349]\d", plain)  # bold and dim are no colours
    row = re.sub(r"\x1b\[[0-9;]*m", "", plain.splitlines()[1])
    assert re.search(r"━+╸?\s{3,}50%", row), row


def test_numbers_are_short() -> None:
    seconds = [3.4, 99, 100, 5940, 6000, 11_100, 172_000, 200_000]
    assert [duration(s) for s in seconds] == [
        "3 s",
        "99 s",
        "2 min",
        "99 min",
        "1 h 40 min",
        "3 h 05 min",
        "47 h 47 min",
        "2 d 8 h",
    ]
    rates = [None, 0.4, 950, 999.7, 41_234, 1.2e6, 9.996e6, 3e9]
    assert [short(rate) for rate in rates] == ["-", "0", "950", "1.00k", "41.2k", "1.20M", "10.0M", "3.00G"]
