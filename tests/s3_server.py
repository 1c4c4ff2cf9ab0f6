"""An S3 server on loopback (moto's), in a process of its own."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator


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
