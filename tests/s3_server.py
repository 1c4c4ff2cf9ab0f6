"""An S3 server on loopback (moto's), in a process of its own, and a way to it that fails as told."""

import contextlib
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

Fault = Callable[[], str | None]
"""Asked at each request: None lets it through, '503' answers that, 'reset' breaks the connection off."""
_REQUEST = (b"GET /", b"PUT /", b"HEAD /", b"POST /", b"DELETE /")


def options_of(port: int) -> str:
    """Options of a URI that lead to the server at a port: s3://bucket?<options>."""
    return f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Options of a URI that lead to the server: s3://bucket?<options>."""
    with s3_port() as port:
        yield options_of(port)


@contextlib.contextmanager
def s3_port() -> Iterator[int]:
    """The port of a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(f"http://127.0.0.1:{port}/moto-api/")
        yield port
    finally:
        server.kill()
        server.wait()


def _await(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Flaky:
    """Faults by a seed: a share of all requests, and all of them while `down` is set."""

    def __init__(self, seed: int, share: float) -> None:
        self._choose, self._share = random.Random(seed), share
        self.down = False
        self.faults = 0

    def stop(self) -> None:
        """From now on no request fails, unless `down` is set."""
        self._share = 0.0

    def __call__(self) -> str | None:
        if self.down or self._choose.random() < self._share:
            self.faults += 1
            return self._choose.choice(("503", "reset"))
        return None


@contextlib.contextmanager
def proxy(port: int, fault: Fault = lambda: None, bytes_per_second: float | None = None) -> Iterator[int]:
    """A port that leads to another one, with faults, and a limit on what each connection gives."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
            ways = {client: server, server: client}
            while not ended.is_set():
                for source in select.select(list(ways), [], [], 1.0)[0]:
                    piece = source.recv(1 << 16)
                    kind = fault() if source is client and piece.startswith(_REQUEST) else None
                    if kind == "503":
                        client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    if kind == "reset":
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if kind is not None or not piece:
                        return
                    ways[source].sendall(piece)
                    if source is server and bytes_per_second is not None:
                        time.sleep(len(piece) / bytes_per_second)

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        ended.set()
        listener.close()
