"""A Ray session of our own: what it leaves of the process that starts it."""

import subprocess
import sys
from pathlib import Path

from tests.small_sweep import environment

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from dmsae_ray.config import set_environment
set_environment(verbose=False)
from dmsae_ray.sweep import ray_session
signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
try:
    with ray_session(None, log=Path("ray.log")):
        print("errors still come", file=sys.stderr)
        os.write(2, b"chatter of native code")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # which thread the system gives it to is not ours to say; the main one wakes up for it
except KeyboardInterrupt:
    print("stopped as by Ctrl-C")
"""


def test_a_session_leaves_signals_and_errors_to_us(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "stopped as by Ctrl-C\n"), done.stderr
    assert done.stderr == "errors still come\n"
    assert "chatter of native code" in (tmp_path / "ray.log").read_text()
