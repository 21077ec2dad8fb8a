"""Volumes, one of them attached to a server."""

from __future__ import annotations

import time
from collections.abc import Mapping

from appliance.core.run.errors import Unavailable
from tests.testbed.api import CINDER, NOVA, Api
from tests.testbed.patience import Patience
from tests.testbed.seed import Project, Volume
from tests.testbed.seeding import content
from tests.testbed.seeding.access import Access

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 300


def plant(
    access: Access, projects: Mapping[str, Project], *, servers: Mapping[str, str]
) -> dict[str, Volume]:
    """Create the volumes and attach one. ``servers`` are ids by name."""
    volumes: dict[str, Volume] = {}
    for name, size in content.VOLUMES.items():
        project = projects[content.project_of(name)]
        door = access.door(
            content.user_names(project.name)[0], domain=project.domain, project_id=project.id
        )
        known = door.get(CINDER, f"/{project.id}/volumes?name={name}")["volumes"]
        volume = known[0]["id"] if known else _create(door, project, name, size)
        server = content.ATTACHED.get(name)
        if server:
            _attach(door, project, volume, servers[server])
        volumes[name] = Volume(volume, name, project.name, size, server)
    return volumes


def _create(door: Api, project: Project, name: str, size: int) -> str:
    made = door.post(CINDER, f"/{project.id}/volumes", {"volume": {"name": name, "size": size}})
    return str(made["volume"]["id"])


def _attach(door: Api, project: Project, volume: str, server: str) -> None:
    if _wait(door, project, volume, "available", "in-use") == "available":
        door.post(
            NOVA,
            f"/servers/{server}/os-volume_attachments",
            {"volumeAttachment": {"volumeId": volume}},
        )
        _wait(door, project, volume, "in-use")


def _wait(door: Api, project: Project, volume: str, *wanted: str) -> str:
    status = ""
    patience = Patience(lambda: status, idle=_PATIENCE_SECONDS)
    while (
        status := str(door.get(CINDER, f"/{project.id}/volumes/{volume}")["volume"]["status"])
    ) not in wanted:
        if patience.is_over():
            raise Unavailable(
                f"volume {volume}",
                f"{status} instead of {' or '.join(wanted)}",
                "see log/cinder.log",
            )
        time.sleep(_POLL_SECONDS)
    return status
