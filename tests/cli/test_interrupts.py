"""Ctrl-C in a process of its own, whose main thread may be where Python's handlers do not run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import pytest

from dmsae_ray.cli.interrupts import STOPPING, Interrupts
from tests.small_sweep import environment

NATIVE = "import hashlib\nsay('ready')\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
"""Minutes of native code: it lets other threads run, but no handler of Python's."""
CLEAN_UP = (
    "import time\ntry:\n    say('ready')\n    time.sleep(60)\nfinally:\n    say('cleaning up')\n    time.sleep(1.5)"
)
TUNE = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: say('asked'))\nsay('ready')\ntime.sleep(60)"


def started(body: str) -> "subprocess.Popen[str]":
    program = "from dmsae_ray.cli.interrupts import Interrupts\n"
    program += "import os\ndef say(line): os.write(1, (line + '\\n').encode())\n"
    program += "try:\n    with Interrupts(say):\n"
    program += (
        textwrap.indent(body, "        ") + "\n        say('went on')\nexcept KeyboardInterrupt:\n    say('stopped')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # so that it is where it will stay
    return process


def acknowledged(process: "subprocess.Popen[str]") -> float:
    """Send a Ctrl-C; the seconds until the next line, which must be the answer."""
    assert process.stdout is not None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if line == f"{STOPPING}\n":
            return time.monotonic() - began
    raise AssertionError("it said nothing")


def test_native_code_hinders_neither_the_answer_nor_the_end() -> None:
    process = started(NATIVE)
    assert acknowledged(process) < 1
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=5)
    assert process.returncode == 130
    assert rest == "\ndmsae: ended hard; the same command goes on where it stopped\n"


def test_one_key_that_is_sent_twice_is_one() -> None:
    """A terminal sends it to all processes in front, and a program in between sends it on."""
    process = started(CLEAN_UP)
    assert acknowledged(process) < 1
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=10)
    assert (process.returncode, rest.removeprefix("cleaning up\n")) == (0, "stopped\n")


def test_tune_is_asked_to_stop_and_a_plain_kill_does_the_same() -> None:
    process = started(TUNE)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert {process.stdout.readline() for _ in range(2)} == {"asked\n", f"{STOPPING}\n"}
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 130


@pytest.mark.parametrize("left_by_tune", [False, True])
def test_handlers_are_put_back(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, left_by_tune: bool
) -> None:
    monkeypatch.delenv("TUNE_DISABLE_SIGINT_HANDLER", raising=False)
    request.addfinalizer(partial(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1) or signal.SIG_DFL))
    if left_by_tune:  # a Tuner that somebody else ran in this process
        signal.signal(signal.SIGUSR1, lambda *_: None)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), Interrupts(said.append):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert said == [STOPPING]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
