"""A driver that hangs at its end, even where no Python runs any more, ends and says where it was."""

import subprocess
import sys

PROGRAM = """
import ctypes, time
from dmsae_ray.sweep.driver_end import ends_in_time

def first():
    with ends_in_time(1.0):
        pass

def second():
    with ends_in_time(0.5):
        time.sleep(2)  # a second trial in the same process may take long

def hold_everything():
    ctypes.PyDLL(None).sleep(60)  # native code that keeps Python's lock

first()
second()
print("both ran", flush=True)
hold_everything()
"""


def test_a_hung_end_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (1, "both ran\n")
    assert "in hold_everything" in done.stderr
