"""Space and files on the file systems of images, spools and state; memory of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from appliance.admin.check.probe import CheckedSite
from appliance.admin.inventory import Flow
from appliance.core.run.finding import Finding

IMAGES = 100 * 10**9
"""Bytes that a file system for images should have; the manual asks for about 100 GB."""
_NEARLY = 0.9
"""A disk of 100 GB has less after it was formatted."""
_LEAST_SPACE = 100 * 2**20
_LEAST_FILES = 1000
_LEAST_MEMORY = 900 * 2**20
"""A VM of 1 GiB has less, without what the kernel keeps; upstream's had 1024 MB."""
_VOLUME = "/var/lib/fedcloud/image-volume"
"""Made by the machine's image when a volume has been mounted for images."""
_SPOOLS = {
    "/var/spool/apel": Flow.ACCOUNTING,
    "/var/spool/caso": Flow.ACCOUNTING,
    "/var/lib/fedcloud": None,
}


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield the findings on the directories that jobs write to (C02)."""
    if site.is_on(Flow.IMAGES):
        path = site.layout.path("/image_data")
        yield from _lost_volume(path, site.layout.path(_VOLUME))
        yield from _images(path)
    for name, flow in _SPOOLS.items():
        path = site.layout.path(name)
        # The installer makes them; on a host of cASO alone there is nothing to fill.
        if path.is_dir() and (flow is None or site.is_on(flow)):
            yield from _spool(path)


def _lost_volume(path: Path, mark: Path) -> Iterator[Finding]:
    if mark.exists() and not path.is_mount():
        text = (
            "the volume that was mounted here is missing; attach the volume with the label"
            f" image_data again, or rm {mark}"
        )
        yield Finding(str(path), 0, "", text, "C02.d", tried=f"mountpoint {path}")


def _images(path: Path) -> Iterator[Finding]:
    tried = f"statvfs {path}"
    if not path.is_dir():
        text = "does not exist, but images are stored there; make it, or mount a volume there"
        yield Finding(str(path), 0, "", text, "C02.d", tried=tried)
        return
    found = os.statvfs(path)
    if found.f_flag & os.ST_RDONLY:
        text = (
            f"is mounted read-only; look for errors of the disk, then: mount -o remount,rw {path}"
        )
        yield Finding(str(path), 0, "", text, "C02.d", tried=tried)
        return
    size = found.f_frsize * found.f_blocks
    if size < IMAGES * _NEARLY:
        text = (
            f"its file system has {size / 10**9:.0f} GB, images need about {IMAGES // 10**9} GB;"
            f" mount a larger volume at {path}"
        )
        yield Finding(str(path), 0, "", text, "C02.a", is_error=False, tried=tried)


def _spool(path: Path) -> Iterator[Finding]:
    found, tried = os.statvfs(path), f"statvfs {path}"
    free = found.f_frsize * found.f_bavail
    if found.f_flag & os.ST_RDONLY:
        text = "is mounted read-only; look for errors of the disk, then mount it writable"
        yield Finding(str(path), 0, "", text, "C02", tried=tried)
    if free < _LEAST_SPACE:
        text = (
            f"{free // 2**20} MiB are free on its file system; free space, or make it larger:"
            " records wait until then, and none is lost"
        )
        yield Finding(str(path), 0, "", text, "C02.b", tried=tried)
    # Some file systems have no fixed number of files, and give zero.
    if found.f_files and found.f_favail < _LEAST_FILES:
        text = (
            f"only {found.f_favail} more files can be made on its file system; remove or drain"
            " small files there, or format it with more inodes"
        )
        yield Finding(str(path), 0, "", text, "C02.c", tried=tried)


def memory(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if the machine has too little memory (C03.a)."""
    size = site.machine.memory
    if 0 < size < _LEAST_MEMORY:
        text = f"this machine has {size // 2**20} MiB of memory; give it 2 GiB"
        yield Finding("", 0, "", text, "C03.a", is_error=False, tried="/proc/meminfo")
