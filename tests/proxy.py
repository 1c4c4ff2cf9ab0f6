"""A way to a server on loopback that fails as told."""

import contextlib
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

Fault = Callable[[], str | None]
"""Asked at each request: None lets it through, '503' answers that (any number), 'reset' breaks the connection off,
'hang' says nothing until something else is answered here, 'lost' lets the request through and loses its answer."""
_REQUEST = (b"GET /", b"PUT /", b"HEAD /", b"POST /", b"PATCH /", b"DELETE /")


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
            ways, lost = {client: server, server: client}, False
            while not ended.is_set():
                for source in select.select(list(ways), [], [], 1.0)[0]:
                    piece = source.recv(1 << 16)
                    kind = fault() if source is client and piece.startswith(_REQUEST) else None
                    lost = lost or kind == "lost"
                    if kind == "hang":
                        while fault() == "hang" and not ended.wait(0.1):
                            pass
                    elif kind == "reset":
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    elif kind is not None and kind != "lost":
                        answer = f"HTTP/1.1 {kind} Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        client.sendall(answer.encode())
                    if kind not in (None, "lost") or not piece or (lost and source is server):
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
