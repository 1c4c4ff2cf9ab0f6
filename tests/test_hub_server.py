"""The Hub on loopback, asked by the real client: what other tests build on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import Hub, hub_server, use

OWN, OTHER = "me/model", "someone/model"
TOKEN = "hf_of_me"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        server.tokens = {TOKEN: "me"}
        use(server, monkeypatch, str(tmp_path / "cache"))
        yield server


def test_revisions_and_folders(hub: Hub) -> None:
    first = hub.commit(OTHER, {"a/b/one.txt": b"1", "two.txt": b"2"})
    second = hub.commit(OTHER, {"a/b/one.txt": b"new"})
    hub.commit(OTHER, {"a/b/one.txt": b"asked"}, revision="refs/pr/1")
    for revision, content in (("main", b"new"), (second, b"new"), (first, b"1"), ("refs/pr/1", b"asked")):
        assert Path(hf_hub_download(OTHER, "a/b/one.txt", revision=revision)).read_bytes() == content
    there = Path(snapshot_download(OTHER, revision=first, allow_patterns=["a/b/*"]))
    assert there.name == first and [p.name for p in there.rglob("*") if p.is_file()] == ["one.txt"]
    listed = HfApi().list_repo_tree(OTHER, "a", recursive=True)
    assert {entry.path for entry in listed} == {"a/b", "a/b/one.txt"}
    assert HfFileSystem(endpoint=hub.url).cat_file(f"{OTHER}@{first}/a/b/one.txt") == b"1"
    assert HfApi().model_info(OTHER).sha == second


def test_what_is_not_there_or_not_for_all(hub: Hub) -> None:
    hub.commit(OTHER, {"one.txt": b"1"})
    hub.commit("someone/secret", {"one.txt": b"1"})
    hub.repos["models", "someone/secret"].private = True
    hub.commit("someone/gated", {"one.txt": b"1"})
    hub.repos["models", "someone/gated"].gated = True
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("someone/secret", "one.txt")
    with pytest.raises(GatedRepoError):
        hf_hub_download("someone/gated", "one.txt")
    for repo in ("someone/secret", "someone/gated"):
        assert Path(hf_hub_download(repo, "one.txt", token=TOKEN)).read_bytes() == b"1"
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("someone/nothing", "one.txt")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(OTHER, "one.txt", revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(OTHER, "none.txt")


def test_uploads(hub: Hub, tmp_path: Path) -> None:
    files = {"README.md": b"---\nlicense: mit\n---\n# It\n", "sub/w.safetensors": b"\1" * 3000, "sub/empty.txt": b""}
    for name, content in files.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(content)
    api = HfApi(token=TOKEN)
    api.create_repo(OWN, private=True, exist_ok=True)
    api.create_repo(OWN, private=True, exist_ok=True)
    first = api.upload_folder(repo_id=OWN, folder_path=tmp_path / "up", commit_message="It")
    assert hub.files(OWN) == files and hub.repos["models", OWN].private
    (tmp_path / "up" / "README.md").write_bytes(b"# Other\n")
    second = api.upload_folder(repo_id=OWN, folder_path=tmp_path / "up")
    assert hub.files(OWN) == {**files, "README.md": b"# Other\n"} and first.oid != second.oid
    assert hub.files(OWN, revision=first.oid) == files
    assert sum(request.startswith("PUT ") for request in hub.requests) == 1, "an LFS file is sent once"
    api.create_branch(OWN, branch="v2")
    api.upload_file(repo_id=OWN, path_or_fileobj=b"x", path_in_repo="x.txt", revision="v2")
    assert "x.txt" in hub.files(OWN, revision="v2") and "x.txt" not in hub.files(OWN)
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(repo_id=OWN, path_or_fileobj=b"x", path_in_repo="x.txt", revision="v3")


def test_an_upload_without_the_right_token(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(b"1")
    hub.commit(OTHER, {"two.txt": b"2"})
    for token in (TOKEN, "hf_wrong", False):
        with pytest.raises(HfHubHTTPError):
            HfApi(token=token).create_repo(OTHER)
        with pytest.raises(HfHubHTTPError):
            HfApi(token=token).upload_file(repo_id=OTHER, path_or_fileobj=tmp_path / "one.txt", path_in_repo="one.txt")
    assert hub.files(OTHER) == {"two.txt": b"2"}
