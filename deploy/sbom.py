"""The bill of materials of a container image or of the machine, as a CycloneDX 1.5 document.

Debian packages come from dpkg's status files and Python packages from their metadata. Both are read
from the files of the image, not from the lists that it was built from.
"""

from __future__ import annotations

import email.parser
import json
import subprocess
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, time
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote

from deploy.dockerd import DOCKER, DockerDaemon
from deploy.ova.virtual_machine import VirtualMachine

_MACHINE = "fedcloud-appliance"
_DEBIAN = "var/lib/dpkg/"
_PYTHON = "opt/fedcloud/lib/python3.11/site-packages/"


def of_image(engine: DockerDaemon, tag: str, *, at: datetime) -> str:
    """Return the document for a container image.

    Raises:
        DaemonError: The engine does not have it.

    """
    container = engine.docker("create", "--network", "none", tag).stdout.strip()
    try:
        with subprocess.Popen(
            [DOCKER, "export", container], stdout=subprocess.PIPE, env=dict(engine.environment)
        ) as process:
            assert process.stdout is not None  # noqa: S101  a pipe was asked for
            components = list(_exported(process.stdout))
    finally:
        engine.docker("rm", container)
    name, _, version = tag.partition(":")
    about = {"type": "container", "name": name, "version": version}
    return _document(about, components, at=at)


def of_machine(root: Path, bundle: Path, machine: VirtualMachine) -> str:
    """Return the document for a machine with the file system ``root``.

    The content of its container images is taken from the documents of its ``bundle``.
    """
    status = (root / f"{_DEBIAN}status").read_text(encoding="utf-8")
    components: list[dict[str, Any]] = list(_debian(status, release=machine.release))
    # Python of the host's programs only: Debian's own is among its packages.
    metadata = root.glob("opt/**/site-packages/*.dist-info/METADATA")
    components += [_python(path.read_text(encoding="utf-8")) for path in metadata]
    for path in sorted(bundle.glob("sbom/*.cdx.json")):
        image = json.loads(path.read_text())
        components.append({**image["metadata"]["component"], "components": image["components"]})
    about = {"type": "operating-system", "name": _MACHINE, "version": machine.version}
    return _document(about, components, at=datetime.combine(machine.day, time(), UTC))


def _document(
    about: Mapping[str, str], components: Iterable[Mapping[str, Any]], *, at: datetime
) -> str:
    found = sorted(components, key=lambda one: (one.get("purl", ""), one["name"]))
    # No random serial number: the same content gives the same document.
    seed = f"{about['name']}:{about['version']}{json.dumps(found)}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        "version": 1,
        "metadata": {
            "timestamp": at.astimezone(UTC).isoformat(timespec="seconds"),
            "component": dict(about),
        },
        "components": found,
    }
    return json.dumps(document, indent=1) + "\n"


def _exported(exported: IO[bytes]) -> Iterator[dict[str, str]]:
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
                yield _python(text)
            else:
                yield from _debian(text, release="12")


def _python(metadata: str) -> dict[str, str]:
    found = email.parser.HeaderParser().parsestr(metadata)
    name, version = found["Name"], found["Version"]
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"
    return _library(name, version, purl)


def _debian(status: str, *, release: str) -> Iterator[dict[str, str]]:
    for block in status.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " "
        )
        if fields.get("Status", "").startswith("install ok"):
            name, version = fields["Package"], fields["Version"]
            about = f"arch={fields['Architecture']}&distro=debian-{release}"
            yield _library(
                name, version, f"pkg:deb/debian/{name}@{quote(version, safe='')}?{about}"
            )


def _library(name: str, version: str, purl: str) -> dict[str, str]:
    return {"type": "library", "name": name, "version": version, "purl": purl}
