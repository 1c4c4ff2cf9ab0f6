"""A Ray session: what one of our own leaves of its process, and an address where none can be joined."""

import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dmsae_ray.errors import ConfigError
from dmsae_ray.sweep import embedded
from dmsae_ray.sweep.session import _quiet_loggers
from tests.small_sweep import environment, write_config


def python(folder: Path, program: str, *arguments: object, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in a process of its own: this one may have a Ray session."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=120)


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
    done = python(tmp_path, PROGRAM)
    assert (done.returncode, done.stdout) == (0, "stopped as by Ctrl-C\n"), done.stderr
    assert done.stderr == "errors still come\n"
    assert "chatter of native code" in (tmp_path / "ray.log").read_text()


OTHER_VERSION = """
import sys
import ray
from dmsae_ray.config import set_environment
set_environment(verbose=False)
if sys.argv[1] == "ray":
    ray.__version__ = "2.3.1"
else:
    sys.version_info = (*sys.version_info[:2], 99, "final", 0)
from dmsae_ray.cli import main
sys.exit(main(["harvest", sys.argv[2], "--address", sys.argv[3]]))
"""


@pytest.mark.parametrize(
    ("what", "said"), [("ray", "this process has Ray: 2.3.1 with Python: "), ("python", ".99; they must be the same")]
)
def test_a_cluster_of_another_version_is_one_line(ray_cluster: Any, tmp_path: Path, what: str, said: str) -> None:
    address = ray_cluster.get_runtime_context().gcs_address
    done = python(tmp_path, OTHER_VERSION, what, write_config(tmp_path), address)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (
        f"--address is '{address}'; the cluster there has Ray: {ray_cluster.__version__} with Python: " in done.stderr
    )
    assert said in done.stderr


ADDRESSES = """
import sys
from pathlib import Path
from dmsae_ray.errors import ConfigError
from dmsae_ray.sweep import ray_session
for address in sys.argv[1:]:
    try:
        with ray_session(address, log=Path("ray.log")):
            print("a cluster")
    except ConfigError as error:
        print(error)
"""


def test_an_address_without_a_cluster_is_one_line_at_once(tmp_path: Path) -> None:
    """Nobody; no such host; one who says nothing; one who speaks another language."""

    def chat() -> None:
        while True:
            client, _ = web.accept()
            client.recv(1000)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            client.close()

    with (
        socket.socket() as taken,
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.create_server(("127.0.0.1", 0)) as web,
    ):
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        threading.Thread(target=chat, daemon=True).start()
        nobody, mute, other = (each.getsockname()[1] for each in (taken, silent, web))
        reasons = {
            f"127.0.0.1:{nobody}": "Connection refused",
            f"[::1]:{nobody}": "",  # a machine may have no IPv6
            f"no-such-host.invalid:{nobody}": "",
            f"127.0.0.1:{mute}": "timed out",
            f"127.0.0.1:{other}": "what answers there is not Ray",
        }
        done = python(tmp_path, ADDRESSES, *reasons)
    assert done.returncode == 0, done.stdout + done.stderr
    for (address, reason), line in zip(reasons.items(), done.stdout.splitlines(), strict=True):
        assert line.startswith(f"--address is '{address}'; no Ray cluster answers there ({reason}"), line


def test_a_cluster_with_a_token_is_joined_with_the_one_at_home_and_else_is_one_line_at_once(tmp_path: Path) -> None:
    for home, token in (("knows", "a" * 64), ("errs", "b" * 64), ("lacks", "")):
        (tmp_path / home / ".ray").mkdir(parents=True)
        if token:
            (tmp_path / home / ".ray" / "auth_token").write_text(token)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", "--block"]
    command += ["--num-cpus=0", "--include-dashboard=false", "--object-store-memory=100000000"]
    # Ray's sockets must have short paths.
    with tempfile.TemporaryDirectory() as short, open(tmp_path / "head.txt", "w") as log:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "RAY_TMPDIR": short}
        head = subprocess.Popen(command, env=environment(**token), stdout=log, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 60
            while "Ray runtime started" not in (tmp_path / "head.txt").read_text() and time.monotonic() < until:
                time.sleep(0.1)
            said = {}
            for home in ("lacks", "errs", "knows"):
                began = time.monotonic()
                done = python(tmp_path, ADDRESSES, f"127.0.0.1:{port}", HOME=str(tmp_path / home))
                assert done.returncode == 0, done.stderr
                assert time.monotonic() - began < 30
                said[home] = done.stdout
        finally:
            for process in [*psutil.Process(head.pid).children(recursive=True), head]:
                process.kill()
            head.wait()
    assert said.pop("knows") == "a cluster\n"
    for printed in said.values():
        (line,) = printed.splitlines()
        why = "the cluster there asks for a token that this process does not have"
        assert line.startswith(f"--address is '127.0.0.1:{port}'; {why}")


EMBEDDED = """
import os, sys
from pathlib import Path
from dmsae_ray.config import set_environment
set_environment(verbose=False)
from dmsae_ray.sweep import ray_session
with ray_session(None, log=Path("ray.log")):
    import ray
    print(ray.get(ray.remote(lambda: 7).remote()), os.environ["RAY_AUTH_MODE"], int(ray.cluster_resources()["CPU"]))
"""


def test_a_session_begins_where_the_home_cannot_be_written_and_tmpdir_is_long(tmp_path: Path) -> None:
    """On as many CPUs as the process may use, and one that only counts."""
    long = tmp_path / ("x" * 70)
    long.mkdir()
    before = set(Path("/tmp").glob("dmsae*"))
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})" + EMBEDDED
    done = python(tmp_path, program, HOME="/proc/nowhere", TMPDIR=str(long))
    assert (done.returncode, done.stdout, done.stderr) == (0, "7 token 2\n", "")
    assert set(Path("/tmp").glob("dmsae*")) <= before and [path.name for path in long.glob("ray*")] == []


@pytest.mark.parametrize("given", ["", "relative", "{folder}/file", "{folder}/nowhere", "{folder}/ü"])
def test_a_temporary_folder_that_ray_cannot_use_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """Ray would time out, or end in a traceback."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        (folder / "relative").mkdir()
        (folder / "ü").mkdir()
        (folder / "file").touch()
        monkeypatch.chdir(folder)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", given.format(folder=folder))
        found = embedded.socket_folder()
        assert found is not None and Path(found).is_dir() and found.isascii() and Path(found).parent == Path("/tmp")
        monkeypatch.setenv("TMPDIR", str(folder))
        assert embedded.socket_folder() is None
    finally:
        shutil.rmtree(folder)


def test_a_session_begins_with_an_empty_tmpdir(tmp_path: Path) -> None:
    done = python(tmp_path, EMBEDDED, TMPDIR="")
    assert done.returncode == 0 and done.stdout.startswith("7 token ") and done.stderr == ""


def test_a_cluster_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    program = "import ray\ndef init(**_): raise PermissionError(1, 'shm is not allowed')\nray.init = init\n"
    done = python(tmp_path, "import os; os.environ['RAY_TRAIN_V2_ENABLED'] = '1'\n" + program + EMBEDDED)
    said = done.stderr.strip().splitlines()[-1]
    assert said.endswith("no Ray cluster starts on this machine (shm is not allowed); with -v Ray says more")


def test_without_a_place_for_sockets_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_SHORT", ("/proc/nowhere",))
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 70)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with pytest.raises(
        ConfigError, match=r"^TMPDIR is '/tmp/x{70}'; Ray needs a folder that can be written, of at most"
    ):
        embedded.socket_folder()
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert embedded.socket_folder() is None


def test_a_logger_that_says_less_is_left_as_it_is() -> None:
    """MLflow's are silent as soon as its store is open; the session begins after that."""
    logger, child = logging.getLogger("mlflow"), logging.getLogger("mlflow.store.db.utils")
    before = logger.level, child.level
    try:
        logger.setLevel(logging.CRITICAL)
        child.setLevel(logging.NOTSET)
        _quiet_loggers(verbose=False)
        assert not child.isEnabledFor(logging.ERROR)
    finally:
        logger.setLevel(before[0])
        child.setLevel(before[1])
