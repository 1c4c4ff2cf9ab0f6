"""The metadata service of an EC2 machine, on loopback, that announces the end of a spot machine."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Metadata(ThreadingHTTPServer):
    """What an EC2 machine answers (IMDSv2): a token first, then the announcement, or 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.announcement: str | None = None
        self.status = 200

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def announce(self, end: datetime) -> None:
        self.announcement = json.dumps({"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"})


class Answer(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        good = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.say(200 if good else 400, "a-token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self.say(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action" or self.server.announcement is None:
            self.say(404, "")
        else:
            self.say(self.server.status, self.server.announcement)

    def say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@contextmanager
def metadata_server() -> Iterator[Metadata]:
    """A server that announces nothing yet."""
    with Metadata() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
