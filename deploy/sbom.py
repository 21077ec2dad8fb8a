"""The bill of materials of an image, as a CycloneDX 1.5 document.

Debian packages come from dpkg's status files and Python packages from their metadata. Both are read
from the files of the image, not from the lists that it was built from.
"""

from __future__ import annotations

import email.parser
import json
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO
from urllib.parse import quote

from deploy.dockerd import DOCKER, DockerDaemon

_DEBIAN = "var/lib/dpkg/"
_PYTHON = "opt/fedcloud/lib/python3.11/site-packages/"


def of_image(engine: DockerDaemon, tag: str, *, at: datetime) -> str:
    """Return the document for an image.

    Raises:
        DaemonError: The engine does not have it.

    """
    container = engine.docker("create", "--network", "none", tag).stdout.strip()
    try:
        with subprocess.Popen(
            [DOCKER, "export", container], stdout=subprocess.PIPE, env=dict(engine.environment)
        ) as process:
            assert process.stdout is not None  # noqa: S101  a pipe was asked for
            components = sorted(
                _components(process.stdout), key=lambda component: component["purl"]
            )
    finally:
        engine.docker("rm", container)
    name, _, version = tag.partition(":")
    # No random serial number: the same image gives the same document.
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, tag + json.dumps(components))}",
        "version": 1,
        "metadata": {
            "timestamp": at.astimezone(UTC).isoformat(timespec="seconds"),
            "component": {"type": "container", "name": name, "version": version},
        },
        "components": components,
    }
    return json.dumps(document, indent=1) + "\n"


def _components(exported: IO[bytes]) -> Iterator[dict[str, str]]:
    with tarfile.open(fileobj=exported, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            is_status = (
                member.name == f"{_DEBIAN}status" or str(path.parent) == f"{_DEBIAN}status.d"
            )
            is_metadata = member.name.startswith(_PYTHON) and path.name == "METADATA"
            if not member.isfile() or not (is_status or is_metadata):
                continue
            file = archive.extractfile(member)
            assert file is not None  # noqa: S101  it is a file
            text = file.read().decode("utf-8", "replace")
            if is_metadata:
                found = email.parser.HeaderParser().parsestr(text)
                yield _component(found["Name"], found["Version"], kind="pypi")
                continue
            for block in text.split("\n\n"):
                fields = dict(
                    line.split(": ", 1)
                    for line in block.splitlines()
                    if ": " in line and line[0] != " "
                )
                if fields.get("Status", "").startswith("install ok"):
                    yield _component(
                        fields["Package"],
                        fields["Version"],
                        kind="deb",
                        architecture=fields["Architecture"],
                    )


def _component(name: str, version: str, *, kind: str, architecture: str = "") -> dict[str, str]:
    if kind == "deb":
        purl = (
            f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}&distro=debian-12"
        )
    else:
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"
    return {"type": "library", "name": name, "version": version, "purl": purl}
