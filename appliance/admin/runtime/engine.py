"""The client of the Docker engine: containers with their state, health and logs.

This is the only module that imports docker.

Containers are found by the labels that docker-compose sets, never by their names: the names differ
between its versions.
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
_PROJECT_LABEL = "com.docker.compose.project"
_ONE_OFF = "com.docker.compose.oneoff"
_SERVICE = "com.docker.compose.service"
_ANSWER = 20  # seconds that the engine may take to answer
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The state of a long-running service.

    ``health`` is Docker's word: healthy, unhealthy or starting; empty without a health check.
    """

    service: str
    state: str
    health: str
    since: datetime | None
    restarts: int
    exit_status: int | None
    """The exit status of the container; None while it runs."""
    said: str
    """The output of the last health check."""

    @property
    def is_running(self) -> bool:
        """Return whether the service's container runs or is being restarted."""
        return self.state in ("running", "restarting", "paused")

    @property
    def is_well(self) -> bool:
        """Return whether it runs and is not unhealthy; a first start counts as healthy."""
        is_new = self.health == "starting" and not self.restarts
        return self.state == "running" and (is_new or self.health in ("", "healthy"))


@dataclass(frozen=True, slots=True)
class OtherContainer:
    """A container that is not of the appliance."""

    id: str
    name: str
    image: str
    """The name by which it was started, with its tag."""
    is_running: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.image})"


class Engine:
    """A connection to the engine, a context manager. All methods raise `Unavailable`."""

    def __init__(self, socket: Path) -> None:
        import docker  # noqa: PLC0415  start-up is a cost
        import docker.errors  # noqa: PLC0415
        import requests  # noqa: PLC0415

        self._errors = docker.errors
        # The SDK lets errors of requests and of sockets pass, besides its own.
        self._broken = (docker.errors.DockerException, requests.RequestException, OSError)
        self._socket = socket
        remedy = "see systemctl status docker, and start it with systemctl start docker"
        # The SDK's message for a socket without a listener does not say that the engine is stopped.
        if not _is_listened_at(socket):
            raise Unavailable(socket, "the Docker engine does not run", remedy)
        try:
            self._client = docker.DockerClient(
                # "auto": the newest protocol that both sides have; engine 29 rejects old ones.
                base_url=f"unix://{socket}",
                version="auto",
                timeout=_ANSWER,
            )
        except self._broken as error:
            raise Unavailable(
                socket, f"the Docker engine does not answer: {_message(error)}", remedy
            ) from error
        self._refuse_podman()

    def _refuse_podman(self) -> None:
        """Reject podman's service, which speaks Docker's protocol but ignores some settings.

        Raises:
            Unavailable: Podman answers on the socket.

        """
        version: Any = self._ask(self._client.version)
        names = [str(part.get("Name", "")) for part in version.get("Components") or []]
        if any("podman" in name.lower() for name in names):
            remedy = (
                "install docker.io, or name Docker's socket as"
                " engine: socket: in /etc/fedcloud/appliance.yaml"
            )
            raise Unavailable(self._socket, "podman answers there, which is not supported", remedy)

    def image(self, tag: str) -> str:
        """Return the id of an image; empty if the engine does not have it."""
        try:
            found: Any = self._ask(self._client.images.get, tag)
        except _Missing:
            return ""
        return str(found.id)

    def networks(self) -> frozenset[str]:
        """Return the networks of the project that exist, by their names in the compose file."""
        wanted = {"label": f"com.docker.compose.project={PROJECT}"}
        found = self._ask(self._client.networks.list, filters=wanted)
        labels = (one.attrs.get("Labels") or {} for one in found)
        return frozenset(str(one.get("com.docker.compose.network", "")) for one in labels)

    def remove_job(self, job: str, *, grace: timedelta) -> int:
        """Stop and remove the containers that a killed run has left; return how many."""
        left = self._containers(f"{JOB_LABEL}={job}")
        for container in left:
            # It may end meanwhile; `--rm` then removes it.
            with contextlib.suppress(_Missing):
                self._ask(container.stop, timeout=round(grace.total_seconds()))
                self._ask(container.remove, force=True, v=True)
        return len(left)

    def has_ended(self, job: str, *, since: datetime) -> bool:
        """Return whether a container of this job has ended since then.

        The engine keeps its last 256 events, so ask soon after the end.
        """
        span = {"since": f"{since.timestamp() - 1:.3f}", "until": f"{time.time():.3f}"}
        filters = {"event": ["die"], "label": [f"{JOB_LABEL}={job}"]}
        return any(
            True for _ in self._ask(self._client.events, **span, filters=filters, decode=True)
        )

    def signal_job(self, job: str, signal: str) -> bool:
        """Send a signal to a job's container; return whether one runs."""
        is_sent = False
        for container in self._containers(f"{JOB_LABEL}={job}"):
            if container.status == "running":
                with contextlib.suppress(_Missing):
                    self._ask(container.kill, signal=signal)
                    is_sent = True
        return is_sent

    def remove_ended(self, name: str) -> None:
        """Remove a container of this name that has ended or never started, not one that runs."""
        # The filter is a regular expression, and the engine's names begin with a slash.
        filters = {"name": f"^/{name}$", "status": ["exited", "created"]}
        for container in self._ask(
            self._client.containers.list, all=True, filters=filters, ignore_removed=True
        ):
            with contextlib.suppress(_Missing):
                self._ask(container.remove, v=True)

    def services(self) -> list[ServiceState]:
        """Return the state of all services of the project that have a container."""
        found = [
            one
            for one in self._containers()
            # `docker-compose run` labels its containers as one-off; those are jobs and checks.
            if one.labels.get(_ONE_OFF) != "True" and JOB_LABEL not in one.labels
        ]
        return sorted((_state(one) for one in found), key=lambda state: state.service)

    def others(self) -> list[OtherContainer]:
        """Return all containers that are not of the appliance's project, by name."""
        found = self._ask(self._client.containers.list, all=True, ignore_removed=True)
        others = [
            OtherContainer(
                str(one.id),
                str(one.name),
                str((one.attrs.get("Config") or {}).get("Image", "")),
                one.status in ("running", "restarting", "paused"),
            )
            for one in found
            if one.labels.get(_PROJECT_LABEL) != PROJECT
        ]
        return sorted(others, key=lambda one: one.name)

    def remove_other(self, container: OtherContainer, *, grace: timedelta) -> None:
        """Stop and remove a container that is not of the appliance's project."""
        with contextlib.suppress(_Missing):
            found: Any = self._ask(self._client.containers.get, container.id)
            self._ask(found.stop, timeout=round(grace.total_seconds()))
            self._ask(found.remove, force=True, v=True)

    def passes_check(self, service: str) -> bool:
        """Run a service's health check in its container; return False if none runs."""
        for container in self._of_service(service):
            test = (container.attrs["Config"].get("Healthcheck") or {}).get("Test") or []
            if container.status == "running" and test[:1] == ["CMD"]:
                with contextlib.suppress(Unavailable):  # it may end meanwhile
                    return bool(self._ask(container.exec_run, test[1:]).exit_code == 0)
        return False

    def logs(self, service: str, *, lines: int, follow: bool) -> Iterator[bytes]:
        """Yield the output of a service that the engine has kept; without end with ``follow``."""
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
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _of_service(self, service: str) -> list[Any]:
        """Return a service's containers, without those of configuration checks."""
        return [
            one
            for one in self._containers(f"{_SERVICE}={service}")
            if one.labels.get(_ONE_OFF) != "True"
        ]

    def _containers(self, *labels: str) -> Sequence[Any]:
        wanted = {"label": [f"{_PROJECT_LABEL}={PROJECT}", *labels]}
        found: Sequence[Any] = self._ask(
            self._client.containers.list, all=True, filters=wanted, ignore_removed=True
        )
        return found

    def _ask(self, question: Callable[..., T], *arguments: Any, **options: Any) -> T:
        try:
            return question(*arguments, **options)
        except self._errors.NotFound as error:
            raise _Missing(self._socket, _message(error)) from error
        except self._broken as error:
            cause = f"the Docker engine reports: {_message(error)}"
            raise Unavailable(self._socket, cause, "see systemctl status docker") from error


def _is_listened_at(path: Path) -> bool:
    """Return whether a process listens; a stopped engine may leave its socket behind."""
    with socketlib.socket(socketlib.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:  # the client reports every other error in more detail
            return True
    return True


class _Missing(Unavailable):
    """The engine does not have the container or image."""


def _state(container: Any) -> ServiceState:
    state = container.attrs.get("State") or {}
    health = state.get("Health") or {}
    checks = health.get("Log") or []
    return ServiceState(
        service=container.labels.get(_SERVICE, container.name),
        state=state.get("Status", ""),
        health=health.get("Status", ""),
        # The engine keeps both times of the last run; the one that matters depends on the state.
        since=_moment(state.get("StartedAt" if state.get("Running") else "FinishedAt", "")),
        restarts=int(container.attrs.get("RestartCount", 0)),
        exit_status=None if state.get("Status") == "running" else int(state.get("ExitCode", 0)),
        said=" ".join(str(checks[-1].get("Output", "")).split()) if checks else "",
    )


def _moment(text: str) -> datetime | None:
    """Return the engine's time without its fraction, which has nine digits; None if unset."""
    try:
        moment = datetime.fromisoformat(text[:19] + "+00:00")
    except ValueError:
        return None
    return moment if moment.year > 1 else None  # Go's zero time, year 1, means never


def _message(error: BaseException) -> str:
    text = getattr(error, "explanation", None) or str(error)
    return " ".join(str(text).split())
