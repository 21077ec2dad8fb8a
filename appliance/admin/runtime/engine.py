"""The Docker engine as the appliance asks it: what runs, how it fares, what it said.

This is the one module that imports docker.

Containers are known by the labels that docker-compose gives them, never by their names: those
differ between its versions.
"""

from __future__ import annotations

import contextlib
import socket as socketlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from appliance.admin.inventory import SERVICES
from appliance.core.run.errors import Unavailable

PROJECT = "fedcloud"
JOB_LABEL = "eu.egi.fedcloud.job"
_ONE_OFF = "com.docker.compose.oneoff"
_SERVICE = "com.docker.compose.service"
_ANSWER = 20  # seconds that the engine may take
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One long-running service. ``health`` is docker's word: healthy, unhealthy, starting, or empty without a check."""

    service: str
    state: str
    health: str
    since: datetime | None
    restarts: int
    exit_status: int | None
    """With which it ended; None while it runs."""
    said: str
    """What the last health check printed."""

    @property
    def is_running(self) -> bool:
        """Return whether its container runs, or is about to run again."""
        return self.state in ("running", "restarting", "paused")

    @property
    def is_well(self) -> bool:
        """Say whether it runs, and nothing that it says of itself is bad; just started, it says nothing yet."""
        is_new = self.health == "starting" and not self.restarts
        return self.state == "running" and (is_new or self.health in ("", "healthy"))


class Engine:
    """A connection to the engine, open until the end of the ``with`` block. All methods raise `Unavailable`."""

    def __init__(self, socket: Path) -> None:
        import docker  # noqa: PLC0415  start-up is a cost
        import docker.errors  # noqa: PLC0415
        import requests  # noqa: PLC0415

        self._errors = docker.errors
        self._broken = (docker.errors.DockerException, requests.RequestException, OSError)
        self._socket = socket
        remedy = "see systemctl status docker, and start it with systemctl start docker"
        if not _is_listened_at(socket):
            raise Unavailable(socket, "the Docker engine does not run", remedy)
        try:
            self._client = docker.DockerClient(
                base_url=f"unix://{socket}", version="auto", timeout=_ANSWER
            )
        except self._broken as error:
            raise Unavailable(
                socket, f"the Docker engine does not answer: {_words(error)}", remedy
            ) from error
        self._refuse_podman()

    def _refuse_podman(self) -> None:
        """Raise `Unavailable` for podman's service, which answers as Docker and ignores some of our settings."""
        told: Any = self._ask(self._client.version)
        names = [str(part.get("Name", "")) for part in told.get("Components") or []]
        if any("podman" in name.lower() for name in names):
            remedy = "install docker.io, or name Docker's socket as engine: socket: in /etc/fedcloud/appliance.yaml"
            raise Unavailable(self._socket, "podman answers there, which is not supported", remedy)

    def image(self, tag: str) -> str:
        """Return the id of an image, empty when the engine does not have it."""
        try:
            found: Any = self._ask(self._client.images.get, tag)
        except _Missing:
            return ""
        return str(found.id)

    def remove_job(self, job: str, *, grace: timedelta) -> int:
        """Stop and remove what is left of a job whose wrapper was killed; returns how many containers that were."""
        left = self._containers(f"{JOB_LABEL}={job}")
        for container in left:
            # it has ended meanwhile, and was told to remove itself
            with contextlib.suppress(_Missing):
                self._ask(container.stop, timeout=round(grace.total_seconds()))
                self._ask(container.remove, force=True, v=True)
        return len(left)

    def has_ended(self, job: str, *, since: datetime) -> bool:
        """Return whether a container of this job has run, and ended, since then; the engine keeps some 250 events."""
        span = {"since": f"{since.timestamp() - 1:.3f}", "until": f"{time.time():.3f}"}
        filters = {"event": ["die"], "label": [f"{JOB_LABEL}={job}"]}
        return any(
            True for _ in self._ask(self._client.events, **span, filters=filters, decode=True)
        )

    def signal_job(self, job: str, signal: str) -> bool:
        """Send a signal to a job's container; returns whether there is one that runs."""
        told = False
        for container in self._containers(f"{JOB_LABEL}={job}"):
            if container.status == "running":
                with contextlib.suppress(_Missing):
                    self._ask(container.kill, signal=signal)
                    told = True
        return told

    def remove_ended(self, name: str) -> None:
        """Remove a container of this name that has ended or never started; one that runs is left alone."""
        filters = {"name": f"^/{name}$", "status": ["exited", "created"]}
        for container in self._ask(
            self._client.containers.list, all=True, filters=filters, ignore_removed=True
        ):
            with contextlib.suppress(_Missing):
                self._ask(container.remove, v=True)

    def services(self) -> list[ServiceState]:
        """Return the state of all containers of the project that are no jobs."""
        found = [
            one
            for one in self._containers()
            if one.labels.get(_ONE_OFF) != "True" and JOB_LABEL not in one.labels
        ]
        return sorted((_state(one) for one in found), key=lambda state: state.service)

    def passes_check(self, service: str) -> bool:
        """Run a service's own health check in its container, now; False while there is none that runs."""
        for container in self._of_service(service):
            test = (container.attrs["Config"].get("Healthcheck") or {}).get("Test") or []
            if container.status == "running" and test[:1] == ["CMD"]:
                with contextlib.suppress(Unavailable):  # it has ended meanwhile
                    return bool(self._ask(container.exec_run, test[1:]).exit_code == 0)
        return False

    def logs(self, service: str, *, lines: int, follow: bool) -> Iterator[bytes]:
        """Yield what a service has written, as far as the engine has kept it; without end while it ``follow``s."""
        found = self._of_service(service)
        if not found:
            raise Unavailable(
                service,
                "has no container",
                f"see systemctl status {SERVICES.get(service, service)}",
            )
        for container in found:
            if follow:
                yield from self._ask(container.logs, tail=lines, stream=True, follow=True)
            else:
                yield self._ask(container.logs, tail=lines)

    def close(self) -> None:
        """Take leave."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _of_service(self, service: str) -> list[Any]:
        """Return a service's containers, without those that only check its configuration."""
        return [
            one
            for one in self._containers(f"{_SERVICE}={service}")
            if one.labels.get(_ONE_OFF) != "True"
        ]

    def _containers(self, *labels: str) -> Sequence[Any]:
        wanted = {"label": [f"com.docker.compose.project={PROJECT}", *labels]}
        found: Sequence[Any] = self._ask(
            self._client.containers.list, all=True, filters=wanted, ignore_removed=True
        )
        return found

    def _ask(self, question: Callable[..., T], *arguments: Any, **options: Any) -> T:
        try:
            return question(*arguments, **options)
        except self._errors.NotFound as error:
            raise _Missing(self._socket, _words(error)) from error
        except self._broken as error:
            raise Unavailable(self._socket, f"the Docker engine: {_words(error)}") from error


def _is_listened_at(path: Path) -> bool:
    """Say whether somebody listens; an engine that was stopped may leave the name of its socket behind."""
    with socketlib.socket(socketlib.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # whatever else it is, the client tells it better
            return True
    return True


class _Missing(Unavailable):
    """The engine has no such thing, or no longer."""


def _state(container: Any) -> ServiceState:
    state = container.attrs.get("State") or {}
    health = state.get("Health") or {}
    checks = health.get("Log") or []
    return ServiceState(
        service=container.labels.get(_SERVICE, container.name),
        state=state.get("Status", ""),
        health=health.get("Status", ""),
        since=_moment(state.get("StartedAt" if state.get("Running") else "FinishedAt", "")),
        restarts=int(container.attrs.get("RestartCount", 0)),
        exit_status=None if state.get("Status") == "running" else int(state.get("ExitCode", 0)),
        said=" ".join(str(checks[-1].get("Output", "")).split()) if checks else "",
    )


def _moment(text: str) -> datetime | None:
    """Read the engine's time, whose fractions have nine digits."""
    try:
        moment = datetime.fromisoformat(text[:19] + "+00:00")
    except ValueError:
        return None
    return moment if moment.year > 1 else None  # year 1 stands for never


def _words(error: BaseException) -> str:
    told = getattr(error, "explanation", None) or str(error)
    return " ".join(str(told).split())
