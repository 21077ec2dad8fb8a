"""The host's certificate, the authorities, and their revocation lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from appliance.admin.check.probe import CheckedSite
from appliance.admin.run import hostkey
from appliance.core.run import lock
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

_STALE = timedelta(days=3)
"""Revocation lists are fetched every six hours; most are valid for a week or more."""
_REMEDY = "run appliance run fetch-crl, and see appliance schedule"


_OLD = timedelta(days=730)
"""IGTF releases its anchors several times a year; Debian's stable release keeps one for two."""


@dataclass(frozen=True, slots=True)
class CertificateName:
    """The name of the host's certificate: as GOCDB writes it, and as RFC 2253 does."""

    gocdb: str
    rfc2253: str

    def __str__(self) -> str:
        return f"host certificate: {self.gocdb} ({self.rfc2253})"


def name(layout: Layout) -> CertificateName | None:
    """Return the name of the host's certificate; None without a certificate."""
    from appliance.core.trust import certificates  # noqa: PLC0415  start-up is a cost
    from appliance.core.trust.distinguished_name import slash_form  # noqa: PLC0415

    try:
        subject = certificates.load_certificates(layout.path(hostkey.CERTIFICATE))[0].subject
        return CertificateName(slash_form(subject), subject.rfc4514_string())
    except ApplianceError:
        return None  # the sender reports it


def of_lists(site: CheckedSite) -> Iterator[Finding]:
    """Yield findings if revocation lists are missing, were not fetched, or have ended (C10.g)."""
    found = list(stale_lists(site.layout, at=site.now))
    yield from found or _of_own_chain(site)


def _of_own_chain(site: CheckedSite) -> Iterator[Finding]:
    """Yield the doubts about the lists that concern the host's own certificate."""
    path = site.layout.path(hostkey.CERTIFICATE)
    if not path.is_file():
        return  # a site that sends nothing needs none; the sender reports a missing one
    from appliance.core.trust import certificates  # noqa: PLC0415  start-up is a cost
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415

    try:
        own, *others = certificates.load_certificates(path)
        known = CADirectory(site.layout.grid_certificates, crls=CRLPolicy.WARN)
        chain = known.verify_chain(own, untrusted=others, at=site.now)
    except ApplianceError:  # reported with the certificate itself
        return
    for warning in chain.warnings:
        text = f"{warning}; {_REMEDY}"
        directory = str(site.layout.grid_certificates)
        yield Finding(directory, 0, "", text, "C10.g", is_error=False, tried=f"chain of {path}")


def of_anchors(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if the newest authority was installed long ago (C10.h)."""
    directory = site.layout.grid_certificates
    try:
        # Those of packages are links; the date is of the package.
        times = [path.stat().st_mtime for path in directory.glob("*.0")]
    except OSError:
        return
    age = site.now - datetime.fromtimestamp(max(times, default=0), site.now.tzinfo)
    if times and age > _OLD:
        text = (
            f"its newest authority is {age.days // 30} months old; update igtf-policy-classic"
            " (apt-get install --only-upgrade), or install EGI's present bundle"
        )
        yield Finding(str(directory), 0, "", text, "C10.h", is_error=False, tried="dates of *.0")


def of_copies(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each copy of the host key that no running job needs (C10.i)."""
    directory = hostkey.staged_path("", site.layout)
    for path in sorted(directory.glob("*")) if directory.is_dir() else ():
        job = path.name.partition(".")[0]
        if job.startswith("check-"):
            continue  # of this check, or of another one that runs
        if not lock.holder(site.layout.path(f"/run/fedcloud/{job}.lock")):
            text = f"is a copy of the host key, and its job does not run; rm {path}"
            yield Finding(str(path), 0, "", text, "C10.i", tried=f"the lock of {job}")


def of_receiver(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if the receiver's certificate has ended (C12.b)."""
    from appliance.core.trust import certificates  # noqa: PLC0415  start-up is a cost

    for value in site.values:
        if (value.section, value.option) != ("certificates", "server_cert") or not value.line:
            continue
        path = site.layout.path(value.text)
        try:
            ends = certificates.load_certificates(path)[0].not_valid_after_utc
        except ApplianceError:  # reported by the sender
            continue
        if ends < site.now:
            text = (
                f"the receiver's certificate {value.text} expired on {ends:%Y-%m-%d}; get the new"
                " one from its operators, or remove the option: messages are not encrypted then"
            )
            place = str(value.path), value.line, value.option
            yield Finding(*place, text, "C12.b", tried=f"notAfter of {value.text}")


def stale_lists(layout: Layout, *, at: datetime) -> Iterator[Finding]:
    """Yield a finding if revocation lists are missing or were not fetched for days."""
    directory = layout.grid_certificates
    try:
        times = [path.stat().st_mtime for path in directory.glob("*.r0")]
    except OSError:
        times = []
    if not times:
        # Without authorities there are no lists to fetch; a site without accounting may have none.
        has_authorities = any(directory.glob("*.crl_url")) or any(directory.glob("*.0"))
        if has_authorities:
            text = f"holds no revocation list; {_REMEDY}"
            yield Finding(str(directory), 0, "", text, "C10.g", is_error=False)
        return
    age = at - datetime.fromtimestamp(max(times), at.tzinfo)
    if age > _STALE:
        text = f"its newest revocation list is {age.days} days old; {_REMEDY}"
        yield Finding(str(directory), 0, "", text, "C10.g", is_error=False)
