"""A file server on loopback that counts what it sends, with range requests or without."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    url: str = ""
    bytes: int = 0
    requests: list[str] = field(default_factory=list)
    fail: int = 0
    """So many of the next requests are answered with 503."""


@contextmanager
def served(folder: Path, ranges: bool = True) -> Iterator[Served]:
    seen = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.requests.append(f"{self.path} {self.headers.get('Range', '')}".strip())
            path = folder / self.path.lstrip("/")
            if seen.fail > 0:
                seen.fail -= 1
                self.send_error(503)
                return
            if not path.is_file():
                self.send_error(404)
                return
            data, asked = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and ranges:
                data = data[int(asked[1]) : int(asked[2]) + 1]
            self.send_response(206 if asked and ranges else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            seen.bytes += len(data)  # before they are sent: whoever has them may ask at once
            with suppress(OSError):  # the reader has had enough
                self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
