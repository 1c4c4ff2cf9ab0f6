"""Places on the Hub: how they are written, what is local, and each line that says why a place cannot be read."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils._hf_uris import parse_hf_uri
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.errors import ConfigError, DataError, DmsaeError, TransientError
from dmsae_ray.files import retry as outages
from dmsae_ray.files.hub import HubPlace, fetch_from_hub, find_in_hub_cache, hub_place
from tests.hub_server import Hub, hub_server, use

REPO, TOKEN = "someone/saes", "hf_a_secret"
KINDS = (("config.json", "ae.pt", "other.pt"), ("cfg.json",))

WORD = st.text("abzAZ09_", min_size=1, max_size=6)
names = st.builds("".join, st.tuples(WORD, st.sampled_from(["", "-", ".", "_"]), WORD))
revisions = st.none() | st.sampled_from(
    ["main", "v1.0", "1" * 40, "a%2Fb", "refs/pr/7", "refs%2Fpr%2F7", "refs/convert/x"]
)
paths = st.lists(st.builds("".join, st.tuples(WORD, st.sampled_from(["", "@1", ".pt", " b", "+", "ä"]))), max_size=3)


@given(names, names, revisions, paths, st.sampled_from(["", "hf://", "hf://models/"]))
def test_places_are_read_as_the_hub_s_client_reads_uris(
    user: str, name: str, revision: str | None, path: list[str], scheme: str
) -> None:
    text = "/".join([f"{user}/{name}" + (f"@{revision}" if revision else ""), *path])
    place, uri = HubPlace.parse(scheme + text), parse_hf_uri(f"hf://{text}")
    assert place == HubPlace(uri.id, uri.revision, uri.path_in_repo)
    assert place is not None and HubPlace.parse(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one",
        "a/",
        "/a",
        "a//b",
        "a/b//c",
        "a/b/../c",
        "a/b@/c",
        "a/b@",
        "-a/b",
        "a/..",
        "datasets/a/b",
        "a b/c",
        "ä/b",
        "a/b.git",
        "a/b.",
        "a./b",
        "a-/b",
        "a/" + 95 * "b",
        "a/b@..%2F..%2Fc",
        "a/b@%00",
        "a/b/c\\..\\d",
    ],
)
def test_what_is_no_place(text: str) -> None:
    assert HubPlace.parse(text) is None


def test_what_is_here_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_place("saes/k20") == HubPlace("saes/k20")
    (tmp_path / "saes" / "k20").mkdir(parents=True)
    for text in ("saes/k20", "/no/b", "./a/b", "../a/b", "~/a/b", "s3://a/b", "saes", "x" * 5000, "a/\0"):
        assert hub_place(text) is None, text
    assert hub_place("hf://saes/k20") == HubPlace("saes/k20"), "said in so many words"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(outages, "RETRY_DELAYS", (0.01, 0.01))
    with hub_server() as server:
        server.tokens = {TOKEN: "me"}
        use(server, monkeypatch, str(tmp_path / "cache"))
        yield server


def fetch(text: str) -> tuple[dict[str, bytes], str]:
    place = hub_place(text)
    assert place is not None
    found = fetch_from_hub(place, KINDS, f"x is '{text}'")
    assert find_in_hub_cache(place, KINDS) == found, "the cache gives the same without the Hub"
    return {name: (found.folder / name).read_bytes() for name in found.names}, found.commit


def test_files_of_a_folder_at_a_revision(hub: Hub) -> None:
    files = {"a/b/config.json": b"{}", "a/b/ae.pt": b"1", "a/b/more.txt": b"?", "a/bc/cfg.json": b"3", "cfg.json": b"4"}
    first = hub.commit(REPO, files)
    second = hub.commit(REPO, {"a/b/ae.pt": b"2"})
    hub.commit(REPO, {"a/b/ae.pt": b"5"}, revision="refs/pr/1")
    assert fetch(f"{REPO}/a/b") == ({"config.json": b"{}", "ae.pt": b"2"}, second)
    assert hub.downloads() == ["a/b/config.json", "a/b/ae.pt"], "what is not asked for is not downloaded"
    assert fetch(f"hf://{REPO}@{first}/a/b/") == ({"config.json": b"{}", "ae.pt": b"1"}, first)
    assert fetch(f"{REPO}@refs/pr/1/a/b")[0]["ae.pt"] == b"5"
    assert fetch(f"{REPO}/a/bc") == ({"cfg.json": b"3"}, second)
    assert fetch(REPO) == ({"cfg.json": b"4"}, second)


def refused(text: str, kind: type[DmsaeError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        fetch(text)
    line = str(caught.value)
    assert type(caught.value) is kind and line.startswith(f"x is '{text}'") and "\n" not in line and TOKEN not in line
    return line


def test_each_reason_is_a_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit(REPO, {"a/b/config.json": b"{}", "a/c.txt": b""})
    for repo in ("someone/secret", "someone/gated"):
        hub.commit(repo, {"config.json": b"{}", "ae.pt": b"1"})
    hub.repos["models", "someone/secret"].private = hub.repos["models", "someone/gated"].gated = True
    line = refused("saes/k20")
    assert "no such path here" in line and "the Hub has no model repository 'saes/k20'" in line
    assert "the Hub has no model repository 'someone/secret', or one that is private" in refused("someone/secret")
    assert "repository 'someone/gated' is gated" in refused("someone/gated")
    assert f"repository '{REPO}' has no revision 'v9'" in refused(f"{REPO}@v9/a/b")
    assert f"repository '{REPO}' has no folder 'a/d'" in refused(f"{REPO}/a/d")
    assert "has no config.json or cfg.json in 'a': it holds b, c.txt" in refused(f"{REPO}/a")
    hub.commit("someone/empty", {})
    assert "it holds nothing" in refused("someone/empty")
    hub.fault = lambda method, path: 403
    assert "the Hub refuses it (" in refused(REPO, DataError)
    hub.fault = lambda method, path: None
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for repo in ("someone/secret", "someone/gated"):
        assert fetch(repo)[0] == {"config.json": b"{}", "ae.pt": b"1"}
    assert "no model repository" in refused("someone/nothing")


def test_a_branch_that_moves_while_the_hub_gives_no_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gives an older file of its cache for a file that the Hub does not answer for."""
    import huggingface_hub.file_download as client

    first = hub.commit(REPO, {"config.json": b"{}", "ae.pt": b"1"})
    assert fetch(REPO)[1] == first
    second = hub.commit(REPO, {"config.json": b"{ }", "ae.pt": b"2"})
    monkeypatch.setattr(client, "_DEFAULT_RETRY_ON_STATUS_CODES", ())
    hub.fault = lambda method, path: 503 if method == "HEAD" else None
    assert "the Hub did not answer after 3 tries" in refused(REPO, TransientError)
    assert len(hub.requests) < 40
    hub.fault = lambda method, path: 503 if method == "HEAD" and "/main/" in path else None
    found = fetch_from_hub(HubPlace(REPO, "main"), KINDS, "x")
    assert found.commit == second and (found.folder / "ae.pt").read_bytes() == b"2"


def test_a_download_that_was_cut_off_is_not_in_the_cache(hub: Hub) -> None:
    hub.commit(REPO, {"config.json": b"{}", "ae.pt": b"1"})
    hub.fault = lambda method, path: 403 if path.endswith("/ae.pt") else None
    assert "the Hub refuses it (" in (line := refused(REPO, DataError)) and "403" in line
    place = hub_place(REPO)
    assert place is not None and find_in_hub_cache(place, KINDS) is None
    hub.fault = lambda method, path: None
    assert fetch(REPO)[0]["ae.pt"] == b"1"


@pytest.mark.parametrize("token", ["hf_wrong", "hf_\u201cpasted\u201d"])
def test_a_login_that_the_hub_does_not_know(token: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit(REPO, {"config.json": b"{}", "ae.pt": b"1"})
    monkeypatch.setenv("HF_TOKEN", token)
    line = refused(REPO, DataError)
    assert "the Hub does not accept the login of this machine" in line and token[3:] not in line


def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    hub.commit(REPO, {"config.json": b"{}", "ae.pt": b"1"})
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    assert "the cache of the Hub's client cannot be written (" in refused(REPO, DataError)


@pytest.mark.parametrize("status", [0, 429, 503])
def test_an_outage_is_waited_for(status: int, hub: Hub) -> None:
    hub.commit(REPO, {"config.json": b"{}", "ae.pt": b"1"})
    hub.fault = lambda method, path: status if len(hub.requests) < 3 else None
    assert fetch(REPO)[0] == {"config.json": b"{}", "ae.pt": b"1"}
    hub.fault = lambda method, path: status
    line = refused("someone/other", TransientError)
    assert "the Hub did not answer after 3 tries" in line


def test_without_a_network_it_is_said_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    hub.commit(REPO, {"config.json": b"{}", "ae.pt": b"1"})
    found = fetch(REPO)
    monkeypatch.setattr(outages, "RETRY_DELAYS", (60.0,))
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    began = time.monotonic()
    for address in (f"http://127.0.0.1:{port}", "http://hub.invalid"):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        line = refused("saes/k20", DataError)
        assert "no such path here" in line and "the Hub cannot be reached (" in line
        assert fetch(REPO) == found, "it is in the cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, and it is not in the Hub's cache" in refused("saes/k20", DataError)
    assert fetch(REPO) == found
    assert time.monotonic() - began < 30
