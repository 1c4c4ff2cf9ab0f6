"""Files that are whole or absent, on a local disk and (by URI) elsewhere."""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files.atomic import remove_temporaries
from dmsae_ray.files.folder import Folder
from dmsae_ray.files.listing import list_files


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_round_trip(tmp_path: Path, scheme: str) -> None:
    folder = Folder(f"{scheme}{tmp_path}") / "a" / "b"
    assert folder.read("x") is None and folder.size("x") is None and folder.sizes() == {}
    folder.write("x", [b"one", memoryview(b"two")])
    assert folder.read("x") == b"onetwo"
    assert folder.sizes() == {"x": 6}
    assert folder.local == tmp_path / "a" / "b"
    folder.write("x", [b"new"])
    assert folder.read("x") == b"new"
    folder.delete("x")
    folder.delete("x")
    assert folder.read("x") is None


def test_a_writer_that_dies_leaves_no_file(tmp_path: Path) -> None:
    def pieces():  # type: ignore[no-untyped-def]
        yield b"half"
        raise KeyboardInterrupt

    folder = Folder(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        folder.write("x", pieces())
    assert folder.sizes() == {}


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".x.123.tmp").write_bytes(b"half")
    (tmp_path / ".y.123.tmp").write_bytes(b"half")
    remove_temporaries(tmp_path / "x")
    assert os.listdir(tmp_path) == [".y.123.tmp"]


def test_the_next_writer_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    """Of its own file only: another one may be being written."""
    (tmp_path / ".x.123.tmp").write_bytes(b"half")
    (tmp_path / ".y.123.tmp").write_bytes(b"half")
    Folder(str(tmp_path)).write("x", [b"whole"])
    assert sorted(os.listdir(tmp_path)) == [".y.123.tmp", "x"]


def test_writers_of_one_file_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    folder, content = Folder(str(tmp_path)), bytes(100_000)

    def write(_: int) -> None:
        folder.write("x", [content[:50_000], content[50_000:]])

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(write, range(200)))
    assert folder.sizes() == {"x": 100_000} and os.listdir(tmp_path) == ["x"]


def test_a_folder_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    (Folder(str(tmp_path)) / "a" / "b").write("x", [b"1"])
    (Folder(str(tmp_path)) / "a").remove()
    (Folder(str(tmp_path)) / "a").remove()
    assert Folder(str(tmp_path)).entries() == []


def test_what_cannot_be_listed_or_deleted_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    for call in (
        (Folder(str(tmp_path)) / "file").sizes,
        partial(Folder(str(tmp_path)).delete, "full"),
        (Folder(str(tmp_path)) / "file").remove,
    ):
        with pytest.raises(DataError, match=r"^\S+(file|full) cannot be (listed|deleted|removed): \S[^\n]*$"):
            call()


def test_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^output: .*file/sub/x cannot be written: \S[^\n]*$"):
        (Folder(str(tmp_path)) / "file" / "sub").write("x", [b""])


def test_options_of_a_uri_stay_behind_the_path() -> None:
    folder = Folder("s3://bucket/a?region=b") / "c"
    assert folder.uri == "s3://bucket/a/c?region=b"
    assert str(folder) == "s3://bucket/a/c"


def test_listing_is_sorted_and_skips_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", ".hidden.txt", "_tmp/c.txt", "d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert list_files(str(tmp_path), (".txt",)) == [str(tmp_path / "a/z.txt"), str(tmp_path / "b.txt")]
    assert list_files(str(tmp_path / "d.json"), (".txt",)) == [str(tmp_path / "d.json")]


def test_listing_gives_each_file_once(tmp_path: Path) -> None:
    for name in ("a/one.txt", "b/two.txt", ".data/three.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a.txt").symlink_to(tmp_path / "a" / "one.txt")
    (tmp_path / "c").symlink_to(tmp_path / ".data")
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    expected = [str(tmp_path / name) for name in ("a.txt", "b/two.txt", "c/three.txt")]
    assert list_files(str(tmp_path), (".txt",)) == list_files(tmp_path.as_uri(), (".txt",)) == expected


@pytest.mark.parametrize("uri", ["foo://key:hidden@b/x", "az://key:hidden@c/x?sig=hidden", "s3://k:hid den@b/x"])
def test_a_place_that_is_not_known_is_said_without_its_password(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^'\w+://\w+/x' is not a place known here: ") as error:
        Folder(uri).read("y")
    assert "hidden" not in str(error.value) and "hid den" not in str(error.value) and "\n" not in str(error.value)


def test_a_package_that_a_place_needs_is_named() -> None:
    """fsspec knows az:// and says what it lacks; pyarrow, asked first, does not know it at all."""
    if importlib.util.find_spec("adlfs"):
        pytest.skip("adlfs is installed: az:// lacks nothing")
    with pytest.raises(ConfigError, match="adlfs"):
        Folder("az://container/x").read("y")
