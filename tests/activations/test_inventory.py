"""`dmsae store`: lists what is there, finds the damaged file, removes nothing in use; on disk and in a bucket."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmsae_ray.activations import Store
from dmsae_ray.activations.files import Folder, filesystem
from dmsae_ray.activations.heartbeat import Heartbeat
from dmsae_ray.activations.inventory import find, list_stores, remove
from dmsae_ray.activations.readers import READERS, Reading, readers
from dmsae_ray.cli import main
from dmsae_ray.errors import ConfigError
from tests.activations.conftest import contents
from tests.s3_server import s3_server

Told = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["disk", "bucket"])
def output(request: pytest.FixtureRequest, store: Store, stores: Path, tmp_path: Path) -> Iterator[str]:
    """The `output` of experiments, with one whole store."""
    if request.param == "disk":
        shutil.copytree(stores / store.key, tmp_path / "runs" / "stores" / store.key)
        yield str(tmp_path / "runs")
        return
    pytest.importorskip("moto.server", reason="needs moto[server]")
    patch = pytest.MonkeyPatch()
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "not-so-secret")):
        patch.setenv(name, value)
    with s3_server() as options:
        uri = f"s3://bucket/runs?{options}"
        system, path = filesystem(uri)
        system.create_dir(path)
        for name, content in contents(stores / store.key).items():
            folder, _, file = f"{store.key}/{name}".rpartition("/")
            (Folder(uri) / "stores" / folder).write(file, [content])
        yield uri
    patch.undo()


@pytest.fixture
def tell(output: str, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run `dmsae store ...` on the output: exit code, what it printed, what it complained of."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["store", *arguments, "--output", output])
        found = capsys.readouterr()
        assert "not-so-secret" not in found.out + found.err
        return code, found.out, found.err

    return run


def place(output: str, store: Store) -> Folder:
    return Folder(output) / "stores" / store.key


def test_ls_tells_what_is_there_and_how_whole(output: str, tell: Told, store: Store) -> None:
    code, out, _ = tell("ls")
    size = sum(info.bytes for info in list_stores(Folder(output) / "stores"))
    assert code == 0 and "1 stores in" in out and f"{size / 1e9:,.3f} GB" in out
    (line,) = [line for line in out.splitlines() if store.key in line]
    for word in ("tiny", "stdlib", "float32", "23,000", f"{store.rows('train'):,}", "complete"):
        assert word in line, line
    (info,) = list_stores(Folder(output) / "stores")
    assert info.written is not None and info.used is None
    place(output, store).delete("manifest.json")
    (place(output, store) / "activations").delete("train-000003.json")
    assert "91% of the activations" in tell("ls")[1]
    (place(output, store) / "tokens").delete("layout.json")
    assert "0 shards of tokens" in tell("ls")[1]


def test_verify_names_the_damaged_file(output: str, tell: Told, store: Store) -> None:
    code, out, _ = tell("verify")
    assert code == 0 and "sound" in out and f"{2 * len(store.layout.all_shards())} files" in out
    for folder, name in (("activations", "train-000002"), ("tokens", "eval-000000")):
        shards = place(output, store) / folder
        content = shards.read(f"{name}.safetensors")
        assert content is not None
        shards.write(f"{name}.safetensors", [content[:-1] + bytes([content[-1] ^ 1])])
    (place(output, store) / "activations").delete("train-000005.safetensors")
    code, out, _ = tell("verify", store.key[:6])
    bad = [line for line in out.splitlines() if line.startswith("damaged: ")]
    assert code == 2 and len(bad) == 3 and "3 damaged" in out
    for name in ("activations/train-000002", "tokens/eval-000000", "activations/train-000005"):
        assert any(f"{name}.safetensors" in line for line in bad), bad


def test_rm_asks_and_removes(output: str, tell: Told, store: Store) -> None:
    code, _, err = tell("rm", store.key)
    assert code == 2 and "--yes" in err and place(output, store).size("manifest.json") is not None
    assert tell("rm", "nothing", "--yes")[0] == 2
    code, out, _ = tell("rm", store.key[:8], "--yes")
    assert code == 0 and store.key in out
    assert list_stores(Folder(output) / "stores") == []
    assert "no stores in" in tell("ls")[1]


def test_what_is_in_use_is_not_removed(output: str, tell: Told, store: Store) -> None:
    with Heartbeat(place(output, store)):
        code, _, err = tell("rm", store.key, "--yes")
    assert code == 2 and "is being written by a harvest" in err
    with Reading(place(output, store), "demo-12345678"):
        code, _, err = tell("rm", store.key, "--yes")
    assert code == 2 and "read by sweep demo-12345678" in err
    assert place(output, store).size("manifest.json") is not None
    (info,) = list_stores(Folder(output) / "stores")
    assert info.used is not None and readers(place(output, store)) == []
    remove(place(output, store))
    assert list_stores(Folder(output) / "stores") == []


def test_a_reader_that_was_killed_does_not_hold_a_store(stores: Path, store: Store, tmp_path: Path) -> None:
    shutil.copytree(stores / store.key, tmp_path / "x")
    folder = Folder(str(tmp_path / "x"))
    code = (
        "import os, signal, sys\nfrom dmsae_ray.activations.files import Folder\n"
        "from dmsae_ray.activations.readers import Reading\n"
        "Reading(Folder(sys.argv[1]), 'gone').__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False, timeout=60)
    assert list((tmp_path / "x" / READERS).iterdir())
    remove(folder)
    assert not (tmp_path / "x").exists()


def test_names_that_fit_several_or_none(tmp_path: Path) -> None:
    for key in ("abc1", "abc2"):
        (tmp_path / key).mkdir()
    assert find(Folder(str(tmp_path)), "abc2") == "abc2"
    with pytest.raises(ConfigError, match=r"'abc' names several stores of .*abc1, abc2"):
        find(Folder(str(tmp_path)), "abc")
    with pytest.raises(ConfigError, match="'x' names no store of "):
        find(Folder(str(tmp_path)), "x")
