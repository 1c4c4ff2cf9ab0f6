"""Which errors pass by themselves: one table, and waiting for a storage that does not answer."""

import errno
import logging
import math
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
import torch.distributed as dist
import urllib3

from dmsae_ray.errors import ConfigError, DataError, TransientError
from dmsae_ray.files import retry
from dmsae_ray.files.faults import is_full_disk, passes, root_message
from dmsae_ray.files.folder import Folder
from dmsae_ray.files.retry import START_SECONDS, patience, retry_outages


def response(status: int) -> requests.HTTPError:
    answer = requests.Response()
    answer.status_code = status
    return requests.HTTPError(f"status {status}", response=answer)


def came_of(outer: Exception, *causes: Exception) -> Exception:
    outer.__cause__ = came_of(*causes) if causes else None
    return outer


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (requests.ConnectionError(), True),
        (requests.exceptions.ChunkedEncodingError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientPayloadError(), True),
        (urllib3.exceptions.ProtocolError(), True),
        (response(500), True),
        (response(429), True),
        (response(404), False),
        (OSError("AWS Error SLOW_DOWN during GetObject operation: try later"), True),
        (OSError("AWS Error ACCESS_DENIED during GetObject operation: no"), False),
        (OSError("google::cloud::Status(UNAVAILABLE: connect)"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."), True),
        (OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body."), False),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject operation: no"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (FileNotFoundError(2, "no such file"), False),
        (ValueError("unknown split"), False),
        (TransientError("an actor was lost"), True),
        (DataError("a shard does not have its checksum"), False),
        (ConfigError("model.layer is 99"), False),
        (came_of(DataError("a file cannot be read"), TimeoutError()), False),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"), True),
        (dist.DistNetworkError("The client socket has timed out"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (MemoryError(), False),
        (came_of(RuntimeError("generation failed"), ValueError(), response(503)), True),
        (came_of(FileNotFoundError("in no cache"), response(404), TimeoutError()), False),
        (came_of(TimeoutError(), response(404)), True),
    ],
)
def test_errors_are_sorted(error: Exception, may_pass: bool) -> None:
    assert passes(error) == may_pass


def test_the_reason_is_what_happened_first() -> None:
    error = came_of(FileNotFoundError("no data file in this folder"), response(503), ConnectionResetError("reset"))
    assert root_message(error) == "reset"
    assert root_message(came_of(FileNotFoundError("no data file in this folder"), response(404))) == "status 404"
    assert root_message(came_of(ValueError("unknown split"), response(404))) == "unknown split"


def test_what_ray_lost_passes_and_what_a_task_raised_does_not() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    lost = [
        exceptions.ActorDiedError(),
        exceptions.ActorUnavailableError("it restarts", b"0" * 16),
        exceptions.NodeDiedError("gone"),
        exceptions.ObjectLostError("00", "", ""),
        exceptions.OwnerDiedError("00", "", ""),
        exceptions.WorkerCrashedError(),
        exceptions.GetTimeoutError("too long"),
        exceptions.OutOfMemoryError("the memory monitor killed it"),
    ]
    assert [passes(error) for error in lost] == [True] * len(lost)
    raised = exceptions.RayTaskError("read", "trace", ValueError("no such column"))
    assert not passes(raised) and not passes(raised.as_instanceof_cause())
    assert passes(exceptions.RayTaskError("read", "trace", ConnectionResetError("reset")))
    assert not passes(exceptions.RayTaskError("read", "trace", DataError("damaged")).as_instanceof_cause())


# --- waiting ---


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping moves; [0] is its time in seconds."""
    now = [0.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    # What this process remembers of full disks is of another clock.
    monkeypatch.setattr(retry, "_full_said", -math.inf)
    monkeypatch.setattr(retry, "_full_since", None)
    return now


def test_an_outage_of_hours_is_waited_for_and_said(clock: list[float], caplog: Any) -> None:
    def read() -> bytes:
        if clock[0] < 5 * 3600:
            raise OSError("AWS Error SERVICE_UNAVAILABLE during GetObject operation: no")
        return b"content"

    with caplog.at_level(logging.WARNING), patience(retry.PATIENCE_SECONDS):
        assert retry_outages(read, "s3://bucket/file") == b"content"
    assert 5 * 3600 <= clock[0] < 5 * 3600 + 80
    assert "s3://bucket/file: AWS Error SERVICE_UNAVAILABLE" in caplog.records[0].getMessage()
    assert len(caplog.records) < 5 * 60 / 0.75 + 10  # a pause is at most a minute, and at least three quarters of that


def test_patience_ends(clock: list[float]) -> None:
    def read() -> None:
        raise TimeoutError("no answer")

    with patience(retry.PATIENCE_SECONDS), pytest.raises(TimeoutError):
        retry_outages(read, "x")
    assert clock[0] == pytest.approx(retry.PATIENCE_SECONDS, rel=0.02)


def test_a_wrong_address_is_told_soon_where_nobody_asked_for_patience(clock: list[float]) -> None:
    def read() -> None:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(ConnectionRefusedError):
        retry_outages(read, "x")
    assert clock[0] < 1.25 * START_SECONDS


def test_a_full_disk_is_waited_for_minutes_only(clock: list[float]) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert is_full_disk(OSError(errno.EDQUOT, "quota"))
    with patience(retry.PATIENCE_SECONDS), pytest.raises(OSError, match="No space left"):
        retry_outages(write, "x")
    assert 30 < clock[0] < 1.25 * retry.FULL_DISK_SECONDS


def test_a_full_disk_is_waited_for_by_a_process_once_and_said_now_and_then(clock: list[float], caplog: Any) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    retry_outages(lambda: None, "something that can be written")
    with patience(retry.PATIENCE_SECONDS):
        for name in ("x", "y", "z"):
            with pytest.raises(OSError, match=f"No space left on device: '{name}'"):
                retry_outages(write, name)
        assert 30 < clock[0] < 1.25 * retry.FULL_DISK_SECONDS
        assert 2 <= caplog.text.count("No space left") <= 1 + clock[0] / retry.FULL_DISK_WORD_SECONDS
        retry_outages(lambda: None, "x")
        before = clock[0]
        with pytest.raises(OSError, match="No space left"):
            retry_outages(write, "x")
    assert clock[0] > before + 30


def test_what_does_not_pass_is_raised_at_once(clock: list[float], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Folder(str(tmp_path / "file")).write("name", [b"x"])
    assert clock[0] == 0


def test_a_copy_whose_pieces_fail_now_and_then_is_whole(
    clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece fails once: no byte is lost or comes twice, and what stood before stays."""
    from dmsae_ray.files import folder as module

    content = bytes(range(256)) * 7 + b"end"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(content)
    system, path = module.filesystem(str(tmp_path / "source"))
    failed: list[int] = []

    class Source:
        def __enter__(self) -> "Source":
            return self

        def __exit__(self, *exc: object) -> None: ...

        def read_at(self, length: int, start: int) -> bytes:
            if start not in failed:
                failed.append(start)
                raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation: reset")
            return content[start : start + length]

    class Flaky:
        def get_file_info(self, name: str) -> Any:
            return system.get_file_info(name)

        def open_input_file(self, name: str) -> Source:
            return Source()

    flaky = Flaky()
    monkeypatch.setattr(module, "_PIECE", 100)
    monkeypatch.setattr(module, "_SMALLEST_PIECE", 1)
    monkeypatch.setattr(module, "filesystem", lambda uri: (flaky, path))
    with open(tmp_path / "target", "w+b") as target:
        target.write(b"before ")
        assert Folder(str(tmp_path / "source")).copy_to("file", target)
        target.write(b" after")
    assert sorted(failed) == list(range(0, len(content), 100))
    assert (tmp_path / "target").read_bytes() == b"before " + content + b" after"


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250])
def test_a_copy_of_any_size_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    from dmsae_ray.files import folder as module

    monkeypatch.setattr(module, "_PIECE", 100)
    monkeypatch.setattr(module, "_SMALLEST_PIECE", 1)
    (tmp_path / "file").write_bytes(bytes(i % 251 for i in range(size)))
    with open(tmp_path / "target", "wb") as target:
        assert Folder(str(tmp_path)).copy_to("file", target, connections=3)
        assert not Folder(str(tmp_path)).copy_to("nothing", target)
    assert (tmp_path / "target").read_bytes() == (tmp_path / "file").read_bytes()
