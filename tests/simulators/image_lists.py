"""Image lists in HEPiX's form as AppDB writes them, signed by the openssl program."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.testbed.pki import Credential

LIST_ID = "9d5c0a10-0000-4000-8000-0000000000a0"


def image_id(number: int) -> str:
    return f"9d5c0a10-0000-4000-8000-{number:012d}"


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_days(days: float) -> str:
    return stamp(datetime.now(UTC) + timedelta(days=days))


def image(number: int, *, uri: str, content: bytes = b"", **changes: Any) -> dict[str, Any]:
    """Return an image of ``content``; ``changes`` replace keys (``__``: colon, None: remove)."""
    fields = {
        "dc:description": f"Image {number} of the example VO",
        "dc:identifier": image_id(number),
        "ad:mpuri": f"https://appdb.example.org/store/vo/image/{image_id(number)}:41/",
        "dc:title": f"Image {number} [Debian/12/KVM]",
        "ad:group": "General group",
        "hv:hypervisor": "KVM",
        "hv:format": "QCOW2",
        "hv:ram_minimum": "1073741824",
        "ad:ram_recommended": "2147483648",
        "hv:core_minimum": "1",
        "ad:core_recommended": "2",
        "hv:size": str(len(content)),
        "hv:uri": uri,
        "hv:version": "2026.11.01",
        "dc:date:expires": in_days(300),
        "sl:arch": "x86_64",
        "sl:checksum:sha512": hashlib.sha512(content).hexdigest(),
        "sl:comments": "",
        "sl:os": "Linux",
        "sl:osname": "Debian",
        "sl:osversion": "12",
        "ad:user:fullname": "Example User",
        "ad:user:guid": image_id(999),
        "ad:user:uri": "https://appdb.example.org/store/person/example.user",
        "ad:base_mpuri": "https://appdb.example.org/store/vappliance/example:1/",
        "ad:appid": "101",
    }
    for key, value in changes.items():
        fields[key.replace("__", ":")] = value
    return {"hv:image": {key: value for key, value in fields.items() if value is not None}}


def image_list(
    images: Sequence[Mapping[str, Any]],
    *,
    dn: str,
    ca: str,
    vo: str = "ops",
    identifier: str = LIST_ID,
    **changes: Any,
) -> dict[str, Any]:
    """Return a list endorsed by ``dn`` of ``ca``; ``changes`` as in `image`."""
    fields: dict[str, Any] = {
        "dc:date:created": in_days(-1),
        "dc:date:expires": in_days(300),
        "dc:description": f"Image list of VO {vo}",
        "dc:identifier": identifier,
        "dc:source": "https://appdb.example.org/",
        "dc:title": f"{vo} list",
        "ad:vo": vo,
        "hv:endorser": {
            "hv:x509": {
                "dc:creator": "Example lists",
                "hv:ca": ca,
                "hv:dn": dn,
                "hv:email": "lists@example.org",
            }
        },
        "hv:images": list(images),
        "hv:uri": f"https://appdb.example.org/store/vo/{vo}/image.list",
        "hv:version": "20261101.1",
    }
    for key, value in changes.items():
        fields[key.replace("__", ":")] = value
    return {"hv:imagelist": {key: value for key, value in fields.items() if value is not None}}


def sign(document: object, signer: Credential, *options: str) -> bytes:
    """Sign a list as AppDB does: ``openssl smime -sign`` over its JSON."""
    text = document if isinstance(document, bytes) else json.dumps(document, indent=2).encode()
    command = ["openssl", "smime", "-sign", "-md", "sha256", "-signer", str(signer.certificate)]
    command += ["-inkey", str(signer.key), *options]
    return subprocess.run(command, input=text, capture_output=True, check=True).stdout


def openssl_accepts(message: bytes, certificates: Path) -> bool:
    """Check whether the openssl program verifies a message against a CA directory."""
    command = ["openssl", "smime", "-verify", "-purpose", "any", "-CApath", str(certificates)]
    return subprocess.run(command, input=message, capture_output=True, check=False).returncode == 0
