"""A Hugging Face Hub on loopback: repositories of models and of datasets, with commits, branches and uploads.

It answers what the installed huggingface_hub asks, over plain HTTP (no Xet), and fails when it is told to. As the real
one, it refuses a token that it does not know, whatever is asked, and has large files on another host.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import pytest

Fault = Callable[[str, str], int | None]
"""From method and path: None for an answer, 0 to hang up, else an HTTP status."""
Files = Mapping[str, bytes]

LARGE = (".safetensors", ".pt", ".bin")
"""Files with these ends are uploaded and listed as LFS files."""


@dataclass
class Repo:
    """One repository.

    Attributes:
        commits: The files of each commit, by name, with the oldest commit first.
        refs: Commits by branch, tag or ref, as 'main' or 'refs/pr/1'.
        private: Only a token may read it.
        gated: Everybody sees its list of files, and only a token may read them.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit_of(self, revision: str) -> str | None:
        """Return the commit that a revision means; None if there is none."""
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """What the server holds and how it behaves.

    Attributes:
        repos: Repositories by kind ('models' or 'datasets') and id.
        tokens: The user of each access token; a token may read everything, and write what is its user's.
        fault: Asked at every request.
        requests: Method and path of every request.
    """

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    fault: Fault = lambda method, path: None
    requests: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def commit(
        self, repo: str, files: Files, *, kind: str = "models", revision: str = "main", parent: bool = True
    ) -> str:
        """Add or replace files of a repository, which is made if it is missing; return the new commit.

        Args:
            repo: Its id, 'user/name'.
            files: Contents by name.
            kind: 'models' or 'datasets'.
            revision: The branch or ref that moves to the commit; a new one begins with the files of main.
            parent: Keep the other files of the branch.
        """
        held = self.repos.setdefault((kind, repo), Repo())
        before = held.refs.get(revision, held.refs.get("main")) if parent else None
        tree = {**(held.commits[before] if before else {}), **files}
        commit = hashlib.sha1(f"{kind} {repo} {len(held.commits)}".encode()).hexdigest()
        held.commits[commit], held.refs[revision] = tree, commit
        return commit

    def files(self, repo: str, *, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Return the files of a repository, by name."""
        held = self.repos[kind, repo]
        return held.commits[held.refs.get(revision, revision)]

    def downloads(self) -> list[str]:
        """Return the names of the files whose content was asked for, once for each request."""
        asked = (re.fullmatch(r"GET [^?]*/(?:resolve|cdn)/[^/]+/([^?]*).*", request) for request in self.requests)
        return [unquote(found[1]) for found in asked if found]

    def environment(self, cache: str, token: str | None = None) -> dict[str, str]:
        """Return the environment in which a process of its own asks this server, with caches in the folder `cache`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": cache,
            "HF_HUB_CACHE": f"{cache}/hub",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": token or "",
        }


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve a Hub without repositories until the block ends; `Hub.commit` adds them."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {self.path}")
        fault = self.hub.fault(self.command, self.path)
        if fault == 0:
            self.connection.close()
        elif fault is not None:
            self._answer(fault, b"")
        else:
            self._route(body)

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self, body: bytes) -> None:
        path = self.path.partition("?")[0]
        if asked := re.fullmatch(r"/cdn/([0-9a-f]{64})/.*", path):
            self._from_cdn(asked[1])
        elif self.headers.get("Authorization") and self._user() is None:
            self._answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/whoami-v2":
            user = self._user()
            self._json({"type": "user", "name": user, "orgs": []}) if user else self._refuse(401, "Unauthorized")
        elif asked := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            self._put_object(asked[1], body)
        elif asked := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+?)\.git/info/lfs/objects/batch", path):
            self._batch(asked[1] or "models", asked[2], json.loads(body))
        elif asked := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([^/]+)/([^/]+)(?:/(.*))?)?", path):
            kind, repo, action, revision, rest = asked.groups()
            self._api(kind, repo, action or "revision", unquote(revision or "main"), unquote(rest or ""), body)
        elif asked := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.*)", path):
            self._resolve(asked[1] or "models", asked[2], unquote(asked[3]), unquote(asked[4]))
        else:
            self._refuse(404, "NotFound")

    def _api(self, kind: str, repo: str, action: str, revision: str, path: str, body: bytes) -> None:
        found = self._found(kind, repo, revision, new=action == "branch")
        if found is None:
            return
        held, commit = found
        files = held.commits.get(commit, {})
        if action == "revision":
            siblings = [{"rfilename": name} for name in files]
            about = {"private": held.private, "gated": "auto" if held.gated else False, "tags": [], "downloads": 0}
            self._json({"id": repo, "sha": commit or None, "siblings": siblings, **about})
        elif action == "tree":
            recursive = "recursive=true" in self.path.lower()
            listed = _tree(files, path, recursive=recursive)
            self._json(listed) if listed or not path else self._refuse(404, "EntryNotFound", commit)
        elif action == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            self._json([entry for entry in _tree(files, "", recursive=True) if entry["path"] in wanted])
        elif not self._may_write(repo):
            self._refuse(403, "Forbidden")
        elif action == "branch":
            held.refs[revision] = held.refs[json.loads(body or b"{}").get("startingPoint", "main")]
            self._json({})
        elif action == "preupload":
            self._preupload(files, json.loads(body))
        elif action == "commit":
            self._commit(kind, repo, revision, [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse(404, "NotFound")

    def _found(self, kind: str, repo: str, revision: str, *, new: bool = False) -> tuple[Repo, str] | None:
        """Return the repository and the commit; if there is none, or it is not for this user, say so."""
        held, user = self.hub.repos.get((kind, repo)), self._user()
        if held is None or (held.private and user is None):
            self._refuse(401 if user is None else 404, "RepoNotFound")
            return None
        commit = held.commit_of(revision)
        if commit is None and (new or (revision == "main" and not held.commits)):
            return held, ""
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return None
        return held, commit

    def _resolve(self, kind: str, repo: str, revision: str, name: str) -> None:
        found = self._found(kind, repo, revision)
        if found is None:
            return
        held, commit = found
        content = held.commits.get(commit, {}).get(name)
        if held.gated and self._user() is None:
            self._refuse(401, "GatedRepo", commit)
        elif content is None:
            self._refuse(404, "EntryNotFound", commit)
        elif name.endswith(LARGE):
            oid = _etag(name, content)
            self.hub.objects[oid] = content
            there = self.hub.url.replace("127.0.0.1", "localhost")
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": commit}
            self._answer(302, b"", {"Location": f"{there}/cdn/{oid}/{quote(name)}", **linked})
        else:
            self._file(content, {"ETag": f'"{_etag(name, content)}"', "X-Repo-Commit": commit})

    def _from_cdn(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            self._refuse(400, "ATokenForAnotherHost")
        else:
            self._file(self.hub.objects[oid], {"ETag": f'"{oid}"'})

    def _create(self, asked: dict[str, Any]) -> None:
        user = self._user()
        if user is None:
            self._refuse(401, "Unauthorized")
            return
        repo, kind = f"{asked.get('organization') or user}/{asked['name']}", f"{asked.get('type') or 'model'}s"
        url = f"{self.hub.url}/{'' if kind == 'models' else 'datasets/'}{repo}"
        if not self._may_write(repo):
            self._refuse(403, "Forbidden")
        elif (kind, repo) in self.hub.repos:
            self._json({"url": url, "error": "You already created this repo"}, 409)
        else:
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.repos[kind, repo] = Repo(private=private)
            self._json({"url": url, "name": repo, "id": repo})

    def _preupload(self, files: Files, asked: dict[str, Any]) -> None:
        def mode(file: dict[str, Any]) -> dict[str, Any]:
            content = files.get(file["path"])
            oid = {} if content is None else {"oid": _etag(file["path"], content)}
            large = file["path"].endswith(LARGE)
            return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **oid}

        self._json({"files": [mode(file) for file in asked["files"]]})

    def _batch(self, kind: str, repo: str, asked: dict[str, Any]) -> None:
        if self._found(kind, repo, "main") is None:
            return
        if not self._may_write(repo):
            self._refuse(403, "Forbidden")
            return

        def place(wanted: dict[str, Any]) -> dict[str, Any]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            return {**wanted, **({} if wanted["oid"] in self.hub.objects else {"actions": upload})}

        self._json({"transfer": "basic", "objects": [place(wanted) for wanted in asked["objects"]]})

    def _put_object(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            self._refuse(400, "BadObject")
            return
        self.hub.objects[oid] = content
        self._answer(200, b"")

    def _commit(self, kind: str, repo: str, revision: str, lines: list[dict[str, Any]]) -> None:
        held = self.hub.repos[kind, repo]
        tree = dict(held.commits.get(held.refs.get(revision, ""), {}))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                tree[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                tree.pop(value["path"], None)
            elif line["key"] == "deletedFolder":
                tree = {name: content for name, content in tree.items() if not name.startswith(value["path"])}
        commit = self.hub.commit(repo, tree, kind=kind, revision=revision, parent=False)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def _user(self) -> str | None:
        return self.hub.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _may_write(self, repo: str) -> bool:
        return self._user() == repo.partition("/")[0]

    def _file(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers["Accept-Ranges"] = "bytes"
        if asked is None:
            self._answer(200, content, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], headers)

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        said = {"X-Repo-Commit": commit} if commit else {}
        self._answer(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, **said})

    def _json(self, tree: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(tree).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _tree(files: Files, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries of a folder as the Hub lists them."""
    start = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for name, content in files.items():
        if not name.startswith(start):
            continue
        parts = name[len(start) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            above = start + "/".join(parts[:depth])
            oid = hashlib.sha1(above.encode()).hexdigest()
            found[above] = {"type": "directory", "path": above, "oid": oid, "size": 0}
        if recursive or len(parts) == 1:
            entry = {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": _etag(name, content), "size": len(content), "pointerSize": 130}
            found[name] = entry
    return list(found.values())


def _etag(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if name.endswith(LARGE) else _blob(content)


def _blob(content: bytes) -> str:
    """Return the id that git gives to the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: str, token: str | None = None) -> None:
    """Let the Hub's client and `datasets` of this process ask this server, and begin with empty caches."""
    import datasets.config
    import huggingface_hub.constants
    from huggingface_hub import HfFileSystem

    from dmsae_ray.files.folder import filesystem

    template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
        huggingface_hub.constants.ENDPOINT, hub.url
    )
    constants = {
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "ENDPOINT": hub.url,
        "HF_HUB_CACHE": cache,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
        "HF_HUB_OFFLINE": False,
        "HF_TOKEN_PATH": f"{cache}/token",
    }
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", token or "")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    HfFileSystem.clear_instance_cache()
    filesystem.cache_clear()
