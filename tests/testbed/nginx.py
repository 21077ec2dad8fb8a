"""Debian's nginx over TLS as a server of image lists and images, and its access log.

    with serve(directory, credential=host, authority=certificate) as server:
        server.put("/one.img", b"…")       # at server.url("/one.img")
        with server.cut("/one.img", by=signal.SIGKILL):
            download(server.url("/slow/one.img"))
        server.log()                       # [Logged(status=206, sent=…, …), …]

The port ``first`` redirects from ``/moved/`` to ``second``, where the same files are; another port
is another host to a client. The port ``third`` has the certificate ``stranger``. Below ``/slow/``
are the same files again: the first `AT_ONCE` bytes of an answer come at once and the rest slowly,
so that there is time to cut it.
"""

from __future__ import annotations

import contextlib
import getpass
import grp
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.polling import repeated
from tests.testbed.pki import Credential

PROGRAM = Path("/usr/sbin/nginx")
AT_ONCE = 512 * 1024
"""Bytes that come at once, also of a slow answer."""
_MARK = "/mark"
_SECONDS = 30
_PAUSE = 0.005

_CONFIGURATION = """\
daemon off;
pid {directory}/pid;
user {user} {group};
worker_processes 1;
worker_shutdown_timeout 10ms;
events {{ worker_connections 64; }}
http {{
  log_format answers escape=json '{{"status":$status,"sent":$body_bytes_sent,"path":"$uri",'
    '"port":$server_port,"range":"$http_range","if_range":"$http_if_range",'
    '"content_range":"$sent_http_content_range"}}';
  access_log {directory}/access.log answers;
  client_body_temp_path {directory}/temporary;
  proxy_temp_path {directory}/temporary;
  fastcgi_temp_path {directory}/temporary;
  scgi_temp_path {directory}/temporary;
  uwsgi_temp_path {directory}/temporary;
  root {directory}/files;
  server {{
    listen 127.0.0.1:{first} ssl;
    ssl_certificate {host.certificate};
    ssl_certificate_key {host.key};
    location = {mark} {{ access_log off; return 204; }}
    location /slow/ {{
      alias {directory}/files/;
      limit_rate_after {at_once};
      limit_rate 16k;
    }}
    location /moved/ {{ rewrite ^/moved(/.*)$ https://localhost:{second}$1 redirect; }}
  }}
  server {{
    listen 127.0.0.1:{second} ssl;
    ssl_certificate {host.certificate};
    ssl_certificate_key {host.key};
  }}
  server {{
    listen 127.0.0.1:{third} ssl;
    ssl_certificate {stranger.certificate};
    ssl_certificate_key {stranger.key};
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of the access log; ``sent`` are the bytes of the body."""

    status: int
    sent: int
    path: str
    port: int
    range: str
    if_range: str
    content_range: str


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running server, its three ports and its files."""

    directory: Path
    first: int
    second: int
    third: int
    master: int
    authority: Path

    def url(self, path: str, port: int = 0) -> str:
        return f"https://localhost:{port or self.first}{path}"

    def file(self, path: str) -> Path:
        return self.directory / "files" / path.removeprefix("/")

    def put(self, path: str, content: bytes) -> str:
        """Serve ``content`` at ``path`` instead of what is there, in one step; return the URL."""
        new = self.directory / "new"
        new.write_bytes(content)
        before = self.file(path)
        if before.exists():  # an ETag of nginx is the second of the change, and the size
            changed = before.stat().st_mtime + 1
            os.utime(new, (changed, changed))
        new.replace(before)
        return self.url(path)

    def log(self) -> list[Logged]:
        """Return the answers up to now, but those of workers that were killed."""
        # The worker logs an answer before it takes the next request.
        requests.get(self.url(_MARK), verify=str(self.authority), timeout=_SECONDS)
        lines = (self.directory / "access.log").read_text().splitlines()
        return [Logged(**json.loads(line)) for line in lines]

    def forget(self) -> None:
        """Empty the access log."""
        self.log()
        os.truncate(self.directory / "access.log", 0)

    @contextlib.contextmanager
    def cut(
        self, path: str, *, by: signal.Signals, then: Callable[[], object] = lambda: None
    ) -> Iterator[list[int]]:
        """Cut each slow answer with a file during the block, after its first bytes.

        SIGKILL ends the worker; SIGHUP has the master reload its configuration, and end the worker
        in good order. Yield the pids of workers that were ended; ``then`` is called before each.
        """
        ended: list[int] = []

        def look() -> None:
            for worker in self._workers():
                if _waits_with(worker, self.file(path).stat()):
                    then()
                    os.kill(self.master if by is signal.SIGHUP else worker, by)
                    self._await_end(worker)
                    ended.append(worker)

        with repeated(look):
            yield ended

    def _workers(self) -> list[int]:
        children = Path(f"/proc/{self.master}/task/{self.master}/children").read_text()
        return [int(child) for child in children.split()]

    def _await_end(self, worker: int) -> None:
        end = time.monotonic() + _SECONDS
        while worker in self._workers():
            if time.monotonic() > end:
                raise RuntimeError(f"worker {worker} of nginx does not end")
            time.sleep(_PAUSE)


def _waits_with(worker: int, file: os.stat_result) -> bool:
    """Check whether a worker has a file open, and waits until it may send more of it.

    A worker has one thread, which waits after it has sent what it can of every answer.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        opened = Path(f"/proc/{worker}/fd").iterdir()
        if any(os.path.samestat(descriptor.stat(), file) for descriptor in opened):
            stat = Path(f"/proc/{worker}/stat").read_text()
            return stat.rpartition(") ")[2].startswith("S")
    return False


@contextlib.contextmanager
def serve(
    directory: Path, *, host: Credential, stranger: Credential, authority: Path
) -> Iterator[Nginx]:
    """Serve on three free ports of loopback during the block; ``host`` is of the authority."""
    (directory / "files").mkdir(parents=True)
    first, second, third = _free_ports(3)
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory,
            user=getpass.getuser(),
            group=grp.getgrgid(os.getgid()).gr_name,
            at_once=AT_ONCE,
            mark=_MARK,
            host=host,
            stranger=stranger,
            first=first,
            second=second,
            third=third,
        )
    )
    with (directory / "error.log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, "-c", configuration], stdout=log, stderr=log)
    try:
        _wait(first, process, directory / "error.log")
        yield Nginx(directory, first, second, third, process.pid, authority)
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(_PAUSE)
    raise RuntimeError(f"nginx does not listen: {log.read_text()[-2000:]}")
