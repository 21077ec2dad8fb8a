"""The two ends of a bench of images, each a process of its own, so that its CPU is not ours.

    python -m tests.bench.image_servers origin DIRECTORY   serves files with sendfile, drains PUTs
    python -m tests.bench.image_servers sink SHA512        Keystone and a Glance that keeps no data

Each prints its URL. The Glance answers that the data have the SHA-512 that it was started with:
hashing them again would measure this program.
"""

from __future__ import annotations

import http.server
import sys
import time
from pathlib import Path

from tests.simulators import glance_memory

_BLOCK = 2**20


class _Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a file of the directory."""
        with (Path(sys.argv[2]) / self.path.lstrip("/")).open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(Path(file.name).stat().st_size))
            self.end_headers()
            self.connection.sendfile(file)

    def do_PUT(self) -> None:
        """Read a body, of a known length or in chunks, and drop it."""
        if length := int(self.headers.get("Content-Length", 0)):
            self._drop(length)
        else:
            while size := int(self.rfile.readline(), 16):
                self._drop(size + 2)  # the line's end
            self.rfile.readline()
        self.send_response(204)
        self.end_headers()

    def _drop(self, left: int) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        while left:
            left -= self.rfile.readinto(buffer[:left])

    def log_message(self, *_: object) -> None:
        """Print nothing but the URL."""


class _DropsData(glance_memory._Handler):
    def _serve(self) -> None:
        if self.command != "PUT" or not self.path.endswith("/file"):
            super()._serve()
            return
        left = int(self.headers["Content-Length"])
        buffer = memoryview(bytearray(_BLOCK))
        while left:
            got = self.rfile.readinto(buffer[:left])
            if not got:
                self.close_connection = True  # Glance keeps nothing of an upload that is cut off
                return
            left -= got
        image = self.glance.images[self.path.split("/")[-2]]
        size = int(self.headers["Content-Length"])
        stored = {"os_hash_algo": "sha512", "os_hash_value": sys.argv[2], "size": size}
        image |= {"status": "active", **stored}
        self.send_response(204)
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  http.server's names


def main() -> None:
    """Serve one of the two until the process is ended."""
    if sys.argv[1] == "origin":
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Origin)
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()
    with glance_memory.serving("one", handler=_DropsData) as glance:
        print(glance.cloud.url, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
