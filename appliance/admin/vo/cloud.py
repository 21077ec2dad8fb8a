"""The cloud as an administrator sees it, through the program `caso administer` in its container.

This host has no client of OpenStack, and `appliance configure` asks the cloud in the same way. One
process serves all requests of a command, and login and requests go through its standard input.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from appliance.admin import settings
from appliance.admin.images import needed
from appliance.admin.runtime import compose, compose_output, native
from appliance.admin.runtime.engine import Engine
from appliance.admin.settings import Host
from appliance.admin.vo.credentials import AdministratorLogin
from appliance.core.run import log
from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.run.layout import Layout

_LIMIT = 180
"""Time limit of one answer in seconds, the start of the container among them."""
_LARGEST = 1 << 26
_SUBJECT = "the cloud"
IDENTITY, COMPUTE, VOLUME, IMAGE = "identity", "compute", "block-storage", "image"
_FIRST_ERROR = 400
NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class CloudAnswer:
    """Status and text of an answer."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        """Return the value in the text.

        Raises:
            Unavailable: It is no JSON.

        """
        try:
            return json.loads(self.text) if self.text else {}
        except ValueError:
            raise Unavailable(_SUBJECT, "an answer is not JSON") from None


class Requests(Protocol):
    """Sends requests with an administrator's token."""

    def send(self, service: str, method: str, path: str, body: str | None = None) -> CloudAnswer:
        """Send a request; return its answer, whatever its status."""
        ...


def get(cloud: Requests, path: str, service: str = IDENTITY) -> Any:
    """Return the value at a path.

    Raises:
        AccessDenied: The account may not read it, or it is not there.

    """
    return checked(cloud.send(service, "GET", path), f"GET {path}").json


def checked(answer: CloudAnswer, what: str) -> CloudAnswer:
    """Return an answer with a status of success.

    Raises:
        AccessDenied: The service refuses; the cause is its own message.

    """
    if answer.status < _FIRST_ERROR:
        return answer
    try:
        found = answer.json
        words = str(next(iter(found.values()))["message"])
    except (Unavailable, StopIteration, LookupError, TypeError, AttributeError):
        words = answer.text
    cause = f"{what} answers {answer.status}: {' '.join(words.split())[:200]}"
    raise AccessDenied(_SUBJECT, cause, "use an administrator's account of the cloud")


class _RequestSender:
    """The program that sends the requests."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors

    def send(self, service: str, method: str, path: str, body: str | None = None) -> CloudAnswer:
        """Send a request; return its answer."""
        line = {"service": service, "method": method, "path": path, "body": body}
        found = self.asked(line)
        return CloudAnswer(int(found["status"]), str(found["text"]))

    def asked(self, line: Mapping[str, object]) -> dict[str, Any]:
        """Return the answer to a line.

        Raises:
            AccessDenied: Keystone refuses the account.
            Unavailable: The cloud or the program does not answer.

        """
        assert self._process.stdin  # noqa: S101  it is a pipe
        assert self._process.stdout  # noqa: S101
        timer = threading.Timer(_LIMIT, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline(_LARGEST)
            found = json.loads(answer)
            failure = found.get("failure")
        except (OSError, ValueError, AttributeError):
            raise self._ended() from None
        finally:
            timer.cancel()
        if failure:
            kind = AccessDenied if failure["is_denied"] else Unavailable
            raise kind(log.one_line(str(failure["subject"])), log.one_line(str(failure["cause"])))
        return dict(found)

    def _ended(self) -> Exception:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read(1 << 20).decode(errors="replace").splitlines()
        said = [line for line in lines if not compose_output.is_noise(line)]
        return compose_output.failure(_SUBJECT, said or [f"no answer within {_LIMIT} s"])


@contextlib.contextmanager
def administrator(login: AdministratorLogin, host: Host, layout: Layout) -> Iterator[Requests]:
    """Log in, and yield the cloud.

    Raises:
        AccessDenied: Keystone refuses the account.
        Unavailable: The cloud or the program does not answer.

    """
    command, environment = _command(host, layout)
    # A file, because a full pipe that nobody reads would stop the program.
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        except OSError as error:
            raise Unavailable(command[0], error.strerror or str(error)) from error
        with process:
            made = _RequestSender(process, errors)
            try:
                made.asked(asdict(login))
                yield made
            finally:
                assert process.stdin  # noqa: S101  it is a pipe
                with contextlib.suppress(OSError):
                    process.stdin.close()  # its end is the program's
                _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()


def _command(host: Host, layout: Layout) -> tuple[list[str], Mapping[str, str]]:
    """Return command line and environment of the program."""
    program = ("caso", "administer")
    if host.is_native or host.is_beside:
        own = Path(sys.executable).with_name(program[0])
        if not own.exists():
            remedy = "install the extra caso into this environment"
            raise Unavailable(own, "is not installed", remedy)
        environment = native.environment(host.proxies, named_authorities="", root=layout.root)
        return [str(own), *program[1:]], environment
    settings.require_files(host)
    compose.require(host.compose)
    with Engine(host.socket) as engine:
        needed.require(engine, host, ["caso"])
    words = ["run", "--rm", "-T", "--no-deps", "caso", *program]
    return settings.compose_command(host, *words), compose_output.environment(host)
