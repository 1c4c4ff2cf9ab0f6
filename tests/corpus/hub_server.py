"""A Hugging Face Hub on loopback with one dataset, that fails when it is told to."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

DATASET = "someone/data"
COMMIT = "1" * 40

Fault = Callable[[str, str], int | None]
"""From method and path: None for an answer, 0 to hang up, else an HTTP status."""


@dataclass
class Hub:
    """What the server holds and how it behaves.

    Attributes:
        files: of the dataset, by name.
        fault: asked at every request.
        requests: method and path of every request.
    """

    files: dict[str, bytes]
    url: str = ""
    fault: Fault = lambda method, path: None
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def hub_server(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serve a dataset until the block ends."""
    hub = Hub(files)
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
        elif self.path.startswith(f"/api/datasets/{DATASET}"):
            self._api(body)
        else:
            name = self.path.rpartition("/")[2].partition("?")[0]
            if name in self.hub.files:
                self._file(self.hub.files[name])
            else:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})

    do_HEAD = do_POST = do_GET

    def _api(self, body: bytes) -> None:
        entries = [_entry(name, content) for name, content in self.hub.files.items()]
        if "/paths-info/" in self.path:
            wanted = re.findall(rb"[\w.-]+", body)
            self._json([entry for entry in entries if entry["path"].encode() in wanted])
        elif "/tree/" in self.path:
            self._json(entries)
        else:
            siblings = [{"rfilename": entry["path"]} for entry in entries]
            self._json({"id": DATASET, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

    def _file(self, content: bytes) -> None:
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers = {"ETag": '"1"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked is None:
            self._answer(200, content, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], headers)

    def _json(self, tree: Any) -> None:
        self._answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})

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


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": f"{hash(name) & 0xFFFF:040x}"}


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    """Let the Hub's client and `datasets` of this process ask this server, and begin with empty caches."""
    import datasets.config
    import huggingface_hub.constants
    from huggingface_hub import HfFileSystem

    from dmsae_ray.files.folder import filesystem

    template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
        huggingface_hub.constants.ENDPOINT, hub.url
    )
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    HfFileSystem.clear_instance_cache()
    filesystem.cache_clear()
