"""A Docker engine's answers on its unix socket, for faults that a real engine is not asked to have.

    with serve(directory) as engine:
        engine.images["egifedcloud/caso:1"] = "sha256:…"
        engine.add("caso", labels={…})
        engine.told                        # [("stop", "caso"), …]

It speaks API 1.41: version, networks, images/NAME/json, containers/json with labels as filter, and
of one container json, logs, kill, stop and removal; and programs run in one.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socketserver
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.simulators.answering import answering


@dataclass(slots=True)
class Engine:
    """What the engine has, and what it was told to do."""

    socket: Path
    images: dict[str, str] = field(default_factory=dict)
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    output: dict[str, bytes] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    """By container, how a program ends that is run in it."""
    networks: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    """What it tells of the past, whatever is asked."""
    failure: str = ""
    """What it says instead of which containers it has, when there is something."""
    name: str = "Engine"
    """As its version calls it; podman's service says ``Podman Engine``."""

    def add(
        self, name: str, *, labels: Mapping[str, str], state: Mapping[str, Any] | None = None
    ) -> None:
        """Add a container that runs, or is in the state given."""
        self.containers[name] = {
            "Id": name,
            "Name": f"/{name}",
            "RestartCount": 0,
            "State": {
                "Status": "running",
                "Running": True,
                "StartedAt": "2026-11-25T00:00:00.123456789Z",
            }
            | dict(state or {}),
            "Config": {"Labels": dict(labels), "Tty": False},
        }

    def answer(self, verb: str, path: str, query: Mapping[str, list[str]]) -> tuple[int, object]:
        """Return status and body."""
        if path == "version":
            components = [{"Name": self.name, "Version": "20.10.24"}]
            told = {
                "ApiVersion": "1.41",
                "MinAPIVersion": "1.12",
                "Version": "20.10.24",
                "Components": components,
            }
            return 200, told
        if match := re.fullmatch(r"images/(.+)/json", path):
            tag = unquote(match[1])
            return (
                (200, {"Id": self.images[tag]})
                if tag in self.images
                else (404, {"message": f"No such image: {tag}"})
            )
        if path == "containers/json" and self.failure:
            return 500, {"message": self.failure}
        if path == "containers/json":
            filters = json.loads(query.get("filters", ["{}"])[0])
            return 200, [
                {"Id": name} for name, one in self.containers.items() if _fits(one, filters)
            ]
        if path == "networks":
            return 200, [_network(name) for name in self.networks]
        if path == "events":
            return 200, b"".join(json.dumps(event).encode() + b"\n" for event in self.events)
        if match := re.fullmatch(r"exec/(.+)/(start|json)", path):
            return (
                (200, b"")
                if match[2] == "start"
                else (200, {"ExitCode": self.ends.get(match[1], 0)})
            )
        match = re.fullmatch(r"containers/([^/]+)(?:/(\w+))?", path)
        return self._of_container(verb, path, match, query)

    def _of_container(
        self, verb: str, path: str, match: re.Match[str] | None, query: Mapping[str, list[str]]
    ) -> tuple[int, object]:
        if match is None or match[1] not in self.containers:
            return 404, {"message": f"No such container: {path}"}
        name, action = match[1], "remove" if verb == "DELETE" else match[2]
        if action == "json":
            return 200, self.containers[name]
        if action == "logs":
            return 200, self.output.get(name, b"")
        if action == "exec":
            return 201, {"Id": name}
        self.told.append((action if action != "kill" else query["signal"][0], name))
        if action == "stop":
            self.containers[name]["State"].update(Status="exited", Running=False)
        elif action == "remove":
            del self.containers[name]
        return 204, None


def _network(name: str) -> Mapping[str, object]:
    return {"Id": name, "Labels": {"com.docker.compose.network": name}}


def _fits(container: Mapping[str, Any], filters: Mapping[str, list[str]]) -> bool:
    names, states = filters.get("name", [""]), filters.get("status", [])
    is_named = any(re.search(name, container["Name"]) for name in names)
    is_so = not states or container["State"]["Status"] in states
    return is_named and is_so and _has(container, filters.get("label", []))


def _has(container: Mapping[str, Any], wanted: list[str]) -> bool:
    labels = container["Config"]["Labels"]
    return all(
        labels.get(name) == value for name, _, value in (label.partition("=") for label in wanted)
    )


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[Engine]:
    """Serve in ``directory``, whose name must be short, for the block."""
    engine = Engine(directory / "docker.sock")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            path = re.sub(r"^/v[\d.]+/|^/", "", parts.path)
            status, body = engine.answer(self.command, path, parse_qs(parts.query))
            content = (
                body
                if isinstance(body, bytes)
                else b""
                if body is None
                else json.dumps(body).encode()
            )
            self.send_response(status)
            kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            # its output ends so
            self.close_connection |= path.startswith("exec/") and path.endswith("/start")

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815  http.server's names

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        request_queue_size = 128  # a real engine has the kernel's largest

    with answering(Server(str(engine.socket), Handler)):
        yield engine
    engine.socket.unlink(missing_ok=True)
