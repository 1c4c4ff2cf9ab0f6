"""A program on a terminal of its own, as a person would run it: what it prints, and the keys that are pressed."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.small_sweep import environment

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\r")
INTERRUPT = b"\x03"


class OnTerminal:
    """A Python program on a pseudo-terminal, whose foreground process group it is."""

    def __init__(self, arguments: Sequence[str], folder: Path, width: int = 100, height: int = 30) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=environment(TERM="xterm-256color"),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._seen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "OnTerminal":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:  # the test has failed
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """All that was printed, drawn again or not, without control sequences."""
        return CONTROL.sub(b"", self._seen).decode()

    def wait_for(self, pattern: str, seconds: float) -> str:
        """Wait until the pattern is printed; the text that fits."""
        until = time.monotonic() + seconds
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < until and self._reader.is_alive(), f"no {pattern!r} before:\n{self.text[-3000:]}"
            time.sleep(0.02)
        return found[0]

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._ours, key)

    def wait(self, seconds: float) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 1 << 16)
            except OSError:  # nobody has it open any more
                return
            if not piece:
                return
            self._seen += piece
