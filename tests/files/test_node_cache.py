"""Copies that several processes of a machine share: made once, bounded, and safe from whoever dies or deletes."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from dmsae_ray.files.node_cache import NodeCache
from tests.small_disk import small_disk

READER = """
import os, sys, time
from pathlib import Path
from dmsae_ray.files.node_cache import NodeCache

folder, pause = Path(sys.argv[1]), float(sys.argv[2])
def fill(file):
    (folder / f"made-{os.getpid()}").touch()
    time.sleep(pause)
    file.write(b"x" * 1000)
with NodeCache(folder / "cache", 10_000).open("name", 1000, fill) as file:
    assert file.read() == b"x" * 1000
"""


def reader(folder: Path, pause: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", READER, str(folder), str(pause)])


def read(cache: NodeCache, letter: bytes, made: list[bytes], size: int = 1000, *, lasting: bool = False) -> None:
    def fill(file: IO[bytes]) -> None:
        made.append(letter)
        file.write(letter * size)

    with cache.open(letter.decode(), size, fill, lasting=lasting) as file:
        assert file.read() == letter * size


def held(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*/*")}


def test_processes_that_want_one_copy_make_it_once(tmp_path: Path) -> None:
    readers = [reader(tmp_path, 1.0) for _ in range(4)]
    assert [process.wait(60) for process in readers] == [0] * 4
    assert len(list(tmp_path.glob("made-*"))) == 1
    assert held(tmp_path / "cache") == {"name": 1000}


def test_a_copy_whose_maker_is_killed_is_made_by_who_waits_for_it(tmp_path: Path) -> None:
    killed = reader(tmp_path, 600.0)
    while not list(tmp_path.glob("made-*")):
        time.sleep(0.05)
    waits = reader(tmp_path, 0.0)
    time.sleep(1.0)
    assert waits.poll() is None
    killed.send_signal(signal.SIGKILL)
    assert waits.wait(60) == 0 and killed.wait(60) != 0
    assert held(tmp_path / "cache") == {"name": 1000}


def test_the_bound_holds_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    cache, made = NodeCache(tmp_path, 3500), list[bytes]()
    for letter in (b"a", b"b", b"c"):
        read(cache, letter, made)
    read(cache, b"a", made)
    read(cache, b"d", made)  # b was not used for the longest time
    assert made == [b"a", b"b", b"c", b"d"] and sorted(held(tmp_path)) == ["a", "c", "d"]
    read(cache, b"e", made, 3400)
    assert held(tmp_path) == {"e": 3400}
    read(cache, b"f", made, 3600)  # more than the cache may hold: it is read all the same
    assert held(tmp_path) == {"e": 3400}


def test_what_is_deleted_stays_readable_for_who_has_it(tmp_path: Path) -> None:
    cache, made = NodeCache(tmp_path, 1500), list[bytes]()
    read(cache, b"a", made)
    with cache.open("a", 1000, lambda file: None) as first:
        read(cache, b"b", made)
        assert list(held(tmp_path)) == ["b"]
        assert first.read() == b"a" * 1000


def test_a_round_longer_than_the_cache_finds_what_lasts(tmp_path: Path) -> None:
    """Read in a circle, each copy would be deleted just before it is wanted again."""
    letters = [bytes([letter]) for letter in range(ord("a"), ord("k"))]
    for lasting, hits in ((0, 0), (4, 4)):
        cache, made = NodeCache(tmp_path / str(lasting), 6000), list[bytes]()
        for turn in range(3):
            made.clear()
            for place, letter in enumerate(letters):
                read(cache, letter, made, lasting=place < lasting)
            assert len(made) == len(letters) - (hits if turn else 0)


def test_a_copy_that_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    cache, made = NodeCache(tmp_path, 3000), list[bytes]()

    def fails(file: IO[bytes]) -> None:
        file.write(b"half")
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        cache.open("a", 1000, fails)
    assert held(tmp_path) == {}
    read(cache, b"a", made)
    (path,) = tmp_path.glob("*/a")
    path.write_bytes(b"torn")
    read(cache, b"a", made)
    assert made == [b"a", b"a"]


def test_a_folder_that_cannot_be_written_or_is_deleted_costs_only_the_copies(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = list[bytes]()
    read(NodeCache(tmp_path / "file" / "cache", 3000), b"a", made)
    read(NodeCache(tmp_path / "file" / "cache"), b"a", made)
    cache = NodeCache(tmp_path / "cache", 3000)

    def fill(file: IO[bytes]) -> None:
        subprocess.run(["rm", "-r", str(tmp_path / "cache")], check=True)
        file.write(b"b" * 1000)

    with cache.open("b", 1000, fill) as copy:
        assert copy.read() == b"b" * 1000
    read(cache, b"b", made)
    assert made == [b"a", b"a", b"b"] and list(held(tmp_path / "cache")) == ["b"]


def test_a_full_disk_drops_older_copies_and_then_the_cache(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as place:
        cache, made = NodeCache(place / "cache", 10**9), list[bytes]()
        read(cache, b"a", made, 400_000)
        read(cache, b"b", made, 400_000)
        read(cache, b"c", made, 400_000)
        assert sorted(held(place / "cache")) == ["b", "c"]
        (place / "other").write_bytes(b"o" * 200_000)
        read(cache, b"d", made, 900_000)
        assert held(place / "cache") == {}
        assert made == [b"a", b"b", b"c", b"d"]


def test_threads_of_one_process_share_a_copy(tmp_path: Path) -> None:
    cache, made = NodeCache(tmp_path, 3000), list[bytes]()

    def fill(file: IO[bytes]) -> None:
        made.append(b"a")
        time.sleep(0.5)
        file.write(b"a" * 1000)

    threads = [threading.Thread(target=lambda: cache.open("a", 1000, fill).close()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [b"a"]
