"""The contents of each image besides the base: libraries in layers, our packages and programs.

An image is a chain of layers. A layer that several images need comes early in their chains and is
stored once:

    base ─┬─ bdii ──────────────────────────────── sitebdii (slapd)
          └─ common ─┬─ ssm ────────────────────── ssm
                     ├─ cloudkeeper ────────────── cloudkeeper (qemu-img)
                     └─ openstack ─┬─ caso ─────── caso
                                   ├─ cloud-info ─ cloud-info
                                   ├─ cloudbdii ── cloudbdii (slapd)
                                   └─ cloudkeeper-os

The module uses the standard library only, because it also runs during the build of images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_REQUIREMENT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(?===)")


@dataclass(frozen=True, slots=True)
class ImageContents:
    """An image: its extras, the layers below it, and our packages and programs in it."""

    extras: tuple[str, ...]
    below: tuple[str, ...]
    packages: tuple[str, ...]
    programs: tuple[str, ...]


IMAGES: Mapping[str, ImageContents] = {
    "caso": ImageContents(
        ("caso",),
        ("common", "openstack"),
        ("caso",),
        ("caso", "caso-extract", "caso-mapping-migrate", "caso-projects"),
    ),
    "ssm": ImageContents(("ssm",), ("common",), ("ssm",), ("ssmctl", "ssmreceive", "ssmsend")),
    "cloudbdii": ImageContents(
        ("bdii", "cloud-info"),
        ("common", "openstack"),
        ("bdii", "cloud_info_provider"),
        ("bdii-update", "cloud-info-provider-service"),
    ),
    "sitebdii": ImageContents(("bdii",), (), ("bdii",), ("bdii-update",)),
    "cloudkeeper": ImageContents(("cloudkeeper",), ("common",), ("cloudkeeper",), ("cloudkeeper",)),
    "cloudkeeper-os": ImageContents(
        ("cloudkeeper-os",), ("common", "openstack"), ("cloudkeeper",), ("cloudkeeper-os",)
    ),
    "cloud-info": ImageContents(
        ("cloud-info",),
        ("common", "openstack"),
        ("cloud_info_provider",),
        ("cloud-info-provider-service",),
    ),
}


def read_lock(path: Path) -> dict[str, str]:
    """Return the requirements of a lock by name, each with the lines of its hashes."""
    found: dict[str, str] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if match := _REQUIREMENT.match(line):
            name = match[0]
        if name:
            found[name] = found.get(name, "") + line
    return found


def layers(locks: Path) -> dict[str, str]:
    """Return the requirements of each layer, and of each image without its layers below."""
    wanted = {
        name: {
            key: text
            for extra in image.extras
            for key, text in read_lock(locks / f"{extra}.txt").items()
        }
        for name, image in IMAGES.items()
    }
    made: dict[str, dict[str, str]] = {}
    for layer in ("common", "openstack"):
        # A layer holds what all images above it need.
        users = [name for name, image in IMAGES.items() if layer in image.below]
        below = made.get("common", {})
        shared = set.intersection(*(set(wanted[name]) for name in users)) - set(below)
        made[layer] = {key: wanted[users[0]][key] for key in sorted(shared)}
    for name, image in IMAGES.items():
        there = {key for layer in image.below for key in made[layer]}
        made[name] = {key: text for key, text in wanted[name].items() if key not in there}
    return {name: "".join(requirements.values()) for name, requirements in made.items()}


def everything(locks: Iterable[Path]) -> str:
    """Return the requirements of several locks as one list; the locks have the same versions."""
    found: dict[str, str] = {}
    for path in locks:
        for name, text in read_lock(path).items():
            found.setdefault(name, text)
    return "".join(found[name] for name in sorted(found))
