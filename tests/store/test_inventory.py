"""`dmsae store`: lists what is there, finds the damaged file, removes nothing in use; on disk and in a bucket."""

import functools
import json
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.cli import stores as cli_stores
from dmsae_ray.cli.commands import main
from dmsae_ray.config import ActivationSettings
from dmsae_ray.config.experiment import Experiment
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import patience
from dmsae_ray.files.folder import Folder, filesystem
from dmsae_ray.files.json_records import encode_record
from dmsae_ray.store.inventory import find_key, list_stores, remove_store
from dmsae_ray.store.manifest import make_manifest, read_request
from dmsae_ray.store.reader import Store
from dmsae_ray.store.usage import USERS, UsageMark, active_users
from dmsae_ray.store.writer import StoreWriter
from tests.optional import optional
from tests.s3_server import s3_server
from tests.small_store import FALSE_MANIFESTS, FAST, contents, falsify, prepare

Told = Callable[..., tuple[int, str, str]]
Make = Callable[..., Experiment]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Options of a URI that lead to a bucket's server; the credentials are in the environment."""
    optional("moto.server")
    with pytest.MonkeyPatch.context() as patch, s3_server() as options:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "not-so-secret")
        yield options


@pytest.fixture(params=["disk", "bucket"])
def output(request: pytest.FixtureRequest, store: Store, stores: Path, tmp_path: Path) -> str:
    """The `output` of experiments, with one whole store."""
    if request.param == "disk":
        shutil.copytree(stores / store.key, tmp_path / "runs" / "stores" / store.key)
        return str(tmp_path / "runs")
    uri = f"s3://bucket-{uuid.uuid4().hex}/runs?{request.getfixturevalue('server')}"
    system, path = filesystem(uri)
    system.create_dir(path)
    for name, content in contents(stores / store.key).items():
        folder, _, file = f"{store.key}/{name}".rpartition("/")
        (Folder(uri) / "stores" / folder).write(file, [content])
    return uri


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
    assert code == 0 and "sound" in out and f" {2 * len(store.layout.all_shards()) + 3} files" in out
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


def test_what_is_in_use_is_not_removed(output: str, tell: Told, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_stores, "remove_store", functools.partial(remove_store, timing=FAST))
    with StoreWriter(place(output, store), FAST):
        code, _, err = tell("rm", store.key, "--yes")
    assert code == 2 and "is being written by a harvest" in err
    with UsageMark(place(output, store), "demo-12345678", FAST):
        code, _, err = tell("rm", store.key, "--yes")
    assert code == 2 and "read by sweep demo-12345678" in err
    assert place(output, store).size("manifest.json") is not None
    (info,) = list_stores(Folder(output) / "stores")
    assert info.used is not None and active_users(place(output, store), FAST) == []
    remove_store(place(output, store), FAST)
    assert list_stores(Folder(output) / "stores") == []


def test_a_reader_that_was_killed_does_not_hold_a_store(stores: Path, store: Store, tmp_path: Path) -> None:
    shutil.copytree(stores / store.key, tmp_path / "x")
    folder = Folder(str(tmp_path / "x"))
    code = (
        "import os, signal, sys\nfrom dmsae_ray.files import Folder\n"
        "from dmsae_ray.store import UsageMark\n"
        "UsageMark(Folder(sys.argv[1]), 'gone').__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=False, timeout=60)
    assert list((tmp_path / "x" / USERS).iterdir())
    remove_store(folder)
    assert not (tmp_path / "x").exists()


def test_names_that_fit_several_or_none(tmp_path: Path) -> None:
    for key in ("abcdef1", "abcdef2"):
        (tmp_path / key / "tokens").mkdir(parents=True)
        (tmp_path / key / "tokens" / "draft.json").write_text("{}")
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "1.jpg").write_text("")
    assert find_key(Folder(str(tmp_path)), "abcdef2") == "abcdef2"
    with pytest.raises(ConfigError, match=r"'abcdef' names several stores of .*abcdef1, abcdef2"):
        find_key(Folder(str(tmp_path)), "abcdef")
    with pytest.raises(ConfigError, match=r"'photographs' names no store of .* there are abcdef1, abcdef2$"):
        find_key(Folder(str(tmp_path)), "photographs")
    for short in ("", "abcde"):
        with pytest.raises(ConfigError, match=f"'{short}' is too short for a store's key"):
            find_key(Folder(str(tmp_path)), short)


# --- odd and damaged folders, on disk ---

Copy = tuple[str, Path, Told]


@pytest.fixture
def one(store: Store, stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Copy:
    """An output with one store, the store's folder, and `dmsae store` on it."""
    folder = tmp_path / "runs" / "stores" / store.key
    shutil.copytree(stores / store.key, folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["store", *arguments, "--output", str(tmp_path / "runs")])
        found = capsys.readouterr()
        return code, found.out, found.err

    return str(tmp_path / "runs"), folder, run


def complaints(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("damaged: ")]


@pytest.mark.parametrize("how", FALSE_MANIFESTS)
def test_verify_compares_the_manifest_with_the_other_files(one: Copy, how: str) -> None:
    _, folder, tell = one
    falsify(folder / "manifest.json", how)
    code, out, _ = tell("verify")
    (line,) = complaints(out)
    assert code == 2 and f"{folder}/manifest.json" in line and "1 damaged" in out


def change(file: Path, **values: Any) -> None:
    """Change a record; None takes a key out."""
    tree = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({name: value for name, value in tree.items() if value is not None}))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("activations/train-000001.json", {"rows": 7}),
        ("activations/eval-000000.json", {"record_checksum": "0" * 64}),
        ("tokens/layout.json", {"documents": 3}),
        ("manifest.json", {"bytes": 1}),
    ],
)
def test_verify_names_the_record_that_was_edited(one: Copy, store: Store, file: str, values: dict[str, Any]) -> None:
    _, folder, tell = one
    assert all("record_checksum" in json.loads((folder / name).read_text()) for name in (file, "manifest.json"))
    change(folder / file, **values)
    code, out, _ = tell("verify")
    (line,) = complaints(out)
    assert code == 2 and f"{folder}/{file} was edited or damaged after it was written" in line


def test_opening_names_the_record_that_was_edited(one: Copy, store: Store) -> None:
    _, folder, _ = one
    change(folder / "manifest.json", bytes=1)
    with pytest.raises(DataError, match=r"^\S+/manifest.json was edited or damaged[^\n]*$"):
        Store(Folder(str(folder)), store.key, ActivationSettings()).commit("train", 1)
    (folder / "manifest.json").unlink()
    change(folder / "activations" / "train-000001.json", rows=7)
    with pytest.raises(DataError, match=r"^\S+/train-000001.json was edited or damaged[^\n]*$"):
        Store(Folder(str(folder)), store.key, ActivationSettings()).commit("train", 1)


def test_a_store_of_a_version_without_these_checksums_is_sound(one: Copy, store: Store) -> None:
    _, folder, tell = one
    for file in (folder / "manifest.json", folder / "tokens" / "layout.json", *(folder / "activations").glob("*.json")):
        change(file, record_checksum=None)
    assert tell("verify")[0] == 0
    old = Store(Folder(str(folder)), store.key, ActivationSettings())
    assert old.commits("train") == store.commits("train") and old.layout == store.layout


def test_verify_compares_the_manifest_with_the_commits(one: Copy) -> None:
    """The norm factor is taken from what the commits say."""
    _, folder, tell = one
    commit = folder / "activations" / "train-000001.json"
    change(commit, sum_squares=1e9, record_checksum=None)
    code, out, _ = tell("verify")
    (line,) = complaints(out)
    assert code == 2 and f"{folder}/manifest.json does not agree with the commit {commit};" in line
    commit.unlink()
    code, out, _ = tell("verify")
    assert code == 2 and f"damaged: {commit} is missing" in out


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokens/layout.json", None),
        ("tokens/layout.json", "{}"),
        ("request.json", None),
        ("request.json", "[1"),
        ("manifest.json", "{}"),
        ("manifest.json", "[]"),
    ],
)
def test_a_record_that_is_missing_or_torn_is_named(one: Copy, file: str, content: str | None) -> None:
    _, folder, tell = one
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    code, out, _ = tell("verify")
    assert code == 2 and any(f"{folder}/{file}" in line for line in complaints(out))
    assert tell("ls")[0] == 0


def test_a_manifest_of_some_shards_is_compared_too(one: Copy, store: Store, make_experiment: Make) -> None:
    _, folder, tell = one
    place = Folder(str(folder))
    items = store.layout.stored_shards(make_experiment(activations__mode="stream").activations)
    commits = {item: store.commit(*item) for item in items}
    place.write(
        "partial.json", [encode_record(make_manifest(place, read_request(place), store.layout, commits, 5_000))]
    )
    place.delete("manifest.json")
    assert tell("verify")[0] == 0
    (folder / "activations" / "train-000002.json").unlink()
    code, out, _ = tell("verify")
    assert code == 2 and "partial.json does not agree with the commit" in complaints(out)[0]


def test_an_odd_request_is_shown_and_does_not_end_anything(one: Copy) -> None:
    output, folder, tell = one
    (folder / "request.json").write_text(
        '{"model": {"name": "tiny", "layer": "x"}, "activations": {"dtype": "float99"}}'
    )
    code, out, _ = tell("ls")
    assert code == 0 and "float99" in out and "complete" in out
    other = Path(output) / "stores" / "zzzzzzzz"
    shutil.copytree(folder, other)
    (Path(output) / "stores" / "aaa-photographs").mkdir()
    code, out, _ = tell("verify")
    assert code == 2 and [str(folder) in line for line in complaints(out)] == [True, False]


def test_a_store_that_cannot_be_listed_does_not_end_the_check_of_others(one: Copy) -> None:
    output, folder, tell = one
    shutil.copytree(folder, Path(output) / "stores" / "aaaaaaaa")
    (Path(output) / "stores" / "aaaaaaaa" / "tokens" / "layout.json").unlink()
    shutil.rmtree(Path(output) / "stores" / "aaaaaaaa" / "activations")
    (Path(output) / "stores" / "aaaaaaaa" / "activations").write_text("a file")
    code, out, _ = tell("verify")
    assert code == 2 and "aaaaaaaa/activations cannot be listed" in complaints(out)[0]
    assert f"{folder.name}: " in out and "sound" in out


def test_only_stores_are_removed_and_each_once(one: Copy) -> None:
    output, folder, tell = one
    stray = Path(output) / "stores" / "photographs"
    stray.mkdir()
    (stray / "1.jpg").write_text("")
    for name in ("", folder.name[:5], "photographs"):
        code, _, err = tell("rm", name, "--yes")
        assert code == 2 and f"'{name}'" in err and len(err.splitlines()) == 1
    assert folder.exists() and stray.exists()
    code, out, _ = tell("rm", folder.name[:6], folder.name, "--yes")
    assert code == 0 and out.count("removed") == 1
    assert not folder.exists() and stray.exists()


def test_an_output_that_is_no_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "stores").write_text("")
    for action in ("ls", "verify"):
        assert main(["store", action, "--output", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert f"{tmp_path}/stores cannot be listed" in err and len(err.splitlines()) == 1


@pytest.mark.slow  # pyarrow tries for 6 s, each time
def test_a_bucket_whose_endpoint_is_down_is_one_line(
    capsys: pytest.CaptureFixture[str], make_experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-so-secret")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        uri = f"s3://bucket/x?endpoint_override=127.0.0.1:{taken.getsockname()[1]}&scheme=http&region=us-east-1"
        with patience(0):
            assert main(["store", "ls", "--output", uri]) == 2
            err = capsys.readouterr().err
            assert "s3://bucket/x/stores cannot be listed" in err and len(err.splitlines()) == 1
            with pytest.raises(DataError, match=r"^s3://bucket/x/\S+/manifest.json cannot be looked at: [^\n]*$"):
                prepare(make_experiment(), uri)
