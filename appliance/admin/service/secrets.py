"""Secrets of the services of a unit: mounts of files, and copies of the unit's credentials.

``UNIT.secrets.yml``, beside the copies of configurations, adds both to the containers. systemd
gives the credentials of ``LoadCredential=`` to root, so their copies for the containers' account
are on tmpfs. They stay while containers run, because the engine may restart one, and the next start
replaces them. The site's BDII, which the world talks to, gets none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from appliance.admin.inventory import UNITS
from appliance.admin.mounts import secret_mounts
from appliance.admin.run import credentials
from appliance.admin.service import kept
from appliance.core import files
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout

_WITHOUT = frozenset({"sitebdii"})


def flags(unit: str, layout: Layout) -> list[str]:
    """Return the flags of docker-compose that add the secrets; none without secrets."""
    path = _file(unit, layout)
    return ["-f", str(path)] if path.exists() else []


def prepare(unit: str, layout: Layout, *, is_start: bool) -> None:
    """Copy the credentials of the unit, and write the compose file with all secrets.

    Only a start forgets the copies of credentials that the unit no longer has.

    Raises:
        LocalFailure: A credential cannot be copied.

    """
    if given := os.environ.get(credentials.VARIABLE):
        credentials.copy(Path(given), _copies(unit, layout))
    elif is_start:
        credentials.remove(_copies(unit, layout))
    path = _file(unit, layout)
    files.make_directory(path.parent, mode=0o700)
    services = {
        service: found
        for service in UNITS[unit]
        if service not in _WITHOUT and (found := _service(service, unit, layout))
    }
    if services:
        # JSON is a subset of YAML.
        files.write_atomic(path, json.dumps({"services": services}, indent=1).encode())
    else:
        path.unlink(missing_ok=True)


def mounts(service: str, unit: str, layout: Layout) -> Iterator[str]:
    """Yield the mounts ``SOURCE:TARGET:ro`` for a check of a service in a container of its own."""
    if service in _WITHOUT:
        return
    yield from secret_mounts.of_service(service, layout)
    if _copies(unit, layout).is_dir():
        yield f"{_copies(unit, layout)}:{credentials.PLACE}:ro"


def _service(service: str, unit: str, layout: Layout) -> dict[str, object]:
    try:
        found = [*mounts(service, unit, layout)]
    except ConfigurationError:  # the check of the service reports it
        return {}
    volumes = [
        {"type": "bind", "source": source, "target": target, "read_only": True}
        for source, target, _ in (one.split(":") for one in found)
    ]
    if any(one["target"] == credentials.PLACE for one in volumes):
        return {"volumes": volumes, "environment": {credentials.VARIABLE: credentials.PLACE}}
    return {"volumes": volumes} if volumes else {}


def _copies(unit: str, layout: Layout) -> Path:
    return credentials.copies(f"unit-{unit}", layout)


def _file(unit: str, layout: Layout) -> Path:
    return kept.directory(layout) / f"{unit}.secrets.yml"
