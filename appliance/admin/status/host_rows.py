"""The rows of the host: revocation lists, certificates, credentials, our images, and the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from appliance.admin import changing
from appliance.admin.inventory import Flow
from appliance.admin.run import hostkey
from appliance.admin.state import mark
from appliance.admin.status import evidence
from appliance.admin.status.age import Age
from appliance.admin.status.evidence import SiteEvidence
from appliance.admin.status.row import Figure, Figures, Light, Row, stamp
from appliance.admin.upgrade import record as upgrades
from appliance.admin.upgrade.record import UpgradeState
from appliance.core import files
from appliance.core.run import lock
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.run.record import CREDENTIAL_END

_HOST = "host"
_SOON = timedelta(days=30)
"""Time before the end of a certificate or credential from which it is a warning."""
_STALE = timedelta(days=3)
"""Revocation lists are fetched every six hours; most are valid for a week or more."""
_OLD = timedelta(days=730)
"""IGTF releases its anchors several times a year; Debian's stable release keeps one for two."""
_LARGEST_LIST = 64 * 2**20
_PLACES = ("/var/lib/fedcloud", "/var/spool/apel", "/var/log", "/image_data")
_LEAST_SPACE, _LITTLE_SPACE = 100 * 2**20, 2**30
"""Free bytes below which jobs cannot work, and below which somebody should look."""


def rows(site: SiteEvidence, images: Age | None) -> Iterator[Row]:
    """Yield the rows of the host."""
    yield from _state(site)
    yield from _upgrade(site)
    yield from _lists(site)
    yield from _certificate(site)
    yield from _authorities(site)
    yield from _credentials(site)
    if images:
        light = Light.WARNING if images.complaint else Light.OK
        figures: Figures = {"packages_of": images.day.isoformat(), "days": images.days}
        details = f"Debian packages {images.days} days old"
        reason = images.complaint.removeprefix("images: ")
        yield Row(_HOST, "our images", light, details, reason, figures=figures)
    yield from _disks(site)


def _state(site: SiteEvidence) -> Iterator[Row]:
    """Yield a row if the state directory is empty where it was not, or that of another host."""
    if fault := mark.fault(site.layout):
        yield Row(_HOST, "state", Light.BAD, mark.STATE, f"{mark.STATE} {fault}")


def _upgrade(site: SiteEvidence) -> Iterator[Row]:
    """Yield a row if an upgrade was begun and has not ended: it runs, or was killed."""
    try:
        found = upgrades.read(site.layout)
    except (ApplianceError, OSError) as error:
        yield Row(_HOST, "upgrade", Light.UNKNOWN, reason=str(error))
        return
    if found is None or found.state is not UpgradeState.BEGUN:
        return
    details = f"{found.before} -> {found.after}"
    figures: Figures = {"before": found.before, "after": found.after}
    if runs := lock.holder(site.layout.path(changing.lock_of("upgrade"))):
        yield Row(_HOST, "upgrade", Light.OK, f"{details}, {runs}", figures=figures)
        return
    reason = "did not end; repeat it, or run appliance upgrade --rollback"
    yield Row(_HOST, "upgrade", Light.WARNING, details, reason, figures=figures)


def _lists(site: SiteEvidence) -> Iterator[Row]:
    """Yield the row of fetch-crl and of the revocation lists in the directory."""
    times, ends = _revocation_lists(site.layout.grid_certificates)
    if not times and not site.is_known("fetch-crl"):
        return
    ended = sum(moment < site.now for moment in ends)
    words = [f"{len(times)} CRLs", *([f"{ended} ended"] if ended else [])]
    figures: dict[str, Figure] = {"lists": len(times), "lists_ended": ended}
    trouble = ""
    if times:
        newest = max(times)
        words.append(f"newest {site.span(newest)}")
        figures["newest"] = stamp(newest)
        if site.now - newest > _STALE:
            days = (site.now - newest).days
            trouble = f"the newest list is {days} days old; run appliance run fetch-crl"
    coming = [moment for moment in ends if moment >= site.now]
    figures["next_end"] = stamp(min(coming, default=None))
    yield evidence.of_job(
        site,
        "fetch-crl",
        program="fetch-crl",
        details=", ".join(words),
        figures=figures,
        trouble=trouble,
    )


def _revocation_lists(directory: Path) -> tuple[list[datetime], list[datetime]]:
    """Return when each list was fetched, and when each one ends."""
    times, ends = [], []
    for path in _named(directory, ".r0"):
        try:
            times.append(_written(path))
            end = _end_of_list(path)
        except OSError:  # removed meanwhile, or unreadable, as `appliance check` reports
            continue
        if end:
            ends.append(end)
    return times, ends


def _end_of_list(path: Path) -> datetime | None:
    from cryptography import x509  # noqa: PLC0415  start-up is a cost

    from appliance.core.trust.unreadable import UNREADABLE  # noqa: PLC0415

    data = files.read_regular(path, limit=_LARGEST_LIST, follow=True)
    is_text = data.lstrip().startswith(b"-----")
    try:
        load = x509.load_pem_x509_crl if is_text else x509.load_der_x509_crl
        return load(data).next_update_utc
    except UNREADABLE:  # `appliance check` and the programs that use it report it
        return None


def _certificate(site: SiteEvidence) -> Iterator[Row]:
    path = site.layout.path(hostkey.CERTIFICATE)
    try:
        is_there = path.is_file()
    except OSError:  # this account may not look
        return
    if not is_there:
        return  # a site that sends nothing needs none; the sender reports a missing one
    from appliance.core.trust import certificates  # noqa: PLC0415  start-up is a cost

    try:
        end = certificates.load_certificates(path)[0].not_valid_after_utc
    except ApplianceError as error:
        yield Row(_HOST, "host certificate", Light.BAD, reason=str(error))
        return
    renew = f"request a new one, and replace {hostkey.CERTIFICATE} and {hostkey.KEY}"
    yield _ending(site, "host certificate", end, renew)


def _ending(site: SiteEvidence, name: str, end: datetime, remedy: str) -> Row:
    """Return the row of something that ends."""
    days = (end - site.now).days
    figures: Figures = {"ends": end.isoformat(), "days": days}
    if end <= site.now:
        details = f"ended {site.span(end)} ago"
        return Row(_HOST, name, Light.BAD, details, f"it has ended; {remedy}", figures=figures)
    details = f"{days} days left"
    if end - site.now > _SOON:
        return Row(_HOST, name, Light.OK, details, figures=figures)
    reason = f"it ends on {end:%Y-%m-%d}; {remedy}"
    return Row(_HOST, name, Light.WARNING, details, reason, figures=figures)


def _authorities(site: SiteEvidence) -> Iterator[Row]:
    directory = site.layout.grid_certificates
    times = []
    for path in _named(directory, ".0"):
        try:
            times.append(_written(path))  # those of packages are links; the date is of the package
        except OSError:
            continue
    if not times:
        return
    age = site.now - max(times)
    figures: Figures = {"authorities": len(times), "newest": max(times).isoformat()}
    details = f"{len(times)}, the newest {site.span(max(times))} old"
    light, reason = Light.OK, ""
    if age > _OLD:
        months = age.days // 30
        light = Light.WARNING
        reason = f"the newest is {months} months old; apt-get install igtf-policy-classic"
    yield Row(_HOST, "authorities", light, details, reason, figures=figures)


def _credentials(site: SiteEvidence) -> Iterator[Row]:
    """Yield a row for each program whose application credential has an end."""
    for program, last in sorted(site.runs.items()):
        figure = last.figure(CREDENTIAL_END)
        if figure is None or last.is_off:
            continue
        try:
            end = datetime.fromtimestamp(figure, site.now.tzinfo)
        except (ValueError, OverflowError, OSError):  # a container wrote it
            continue
        remedy = "create a new application credential, and write it into the configuration"
        yield _ending(site, f"login {program}", end, remedy)


def _disks(site: SiteEvidence) -> Iterator[Row]:
    """Yield a row for each file system that jobs write to, the fullest place of each."""
    seen: set[int] = set()
    for name in _PLACES:
        path = site.layout.path(name)
        try:
            device, found = path.stat().st_dev, os.statvfs(path)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                reason = str(LocalFailure.from_os(error))
                yield Row(_HOST, name, Light.UNKNOWN, reason=reason)
            continue
        if device in seen or (name == "/image_data" and not site.host.flows[Flow.IMAGES]):
            continue
        seen.add(device)
        yield _disk(name, found)


def _disk(name: str, found: os.statvfs_result) -> Row:
    free, size = found.f_frsize * found.f_bavail, found.f_frsize * found.f_blocks
    share = free / size if size else 1.0
    figures: Figures = {"free_bytes": free, "size_bytes": size, "free_files": found.f_favail}
    details = f"{share:.0%} free of {size / 10**9:.0f} GB"
    if found.f_flag & os.ST_RDONLY:
        reason = "it is mounted read-only; look for errors of the disk"
        return Row(_HOST, name, Light.BAD, details, reason, figures=figures)
    if free < _LEAST_SPACE:
        reason = "free space, or make it larger; until then, jobs wait"
        return Row(_HOST, name, Light.BAD, details, reason, figures=figures)
    if free < _LITTLE_SPACE:
        reason = "free space, or make it larger"
        return Row(_HOST, name, Light.WARNING, details, reason, figures=figures)
    return Row(_HOST, name, Light.OK, details, figures=figures)


def _named(directory: Path, ending: str) -> list[Path]:
    try:
        return [directory / name for name in sorted(os.listdir(directory)) if name.endswith(ending)]
    except OSError:
        return []


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone()
