"""What a BDII publishes, and what a site's BDII pulls from, tried once: ``--check-live``.

Nothing is collected and no provider runs: that is what the check of the provider does. The tree
that was published last is read from the state directory, where the service keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from appliance.core import clock, directory, hosts, ldif
from appliance.core.config import document
from appliance.core.glue import judgement, profile
from appliance.core.ldif import Entry
from appliance.core.run import finding, record
from appliance.core.run.errors import ApplianceError, Unavailable
from appliance.core.run.finding import Finding
from bdii.service.state import StateDirectory
from bdii.settings import BdiiSettings
from bdii.site import entries as site_entries
from bdii.site.settings import Pull, Site

_ANSWER = timedelta(seconds=8)
_AT_ONCE = 100
_SERVICE, _IMAGE = "GLUE2Service", "GLUE2ApplicationEnvironment"
_MOST_IMAGES = 5000
"""Images that are checked: they are alike, and 100 000 would take half a minute and 500 MB."""
_KEYS = {
    "GLUE2DomainDescription": "SITE_DESC",
    "GLUE2DomainWWW": "SITE_WEB",
    "GLUE2ContactDetail": "SITE_EMAIL, SITE_SECURITY_EMAIL and SITE_SUPPORT_EMAIL",
    "GLUE2LocationCountry": "SITE_COUNTRY",
    "GLUE2LocationLatitude": "SITE_LAT",
    "GLUE2LocationLongitude": "SITE_LONG",
    "GLUE2EntityOtherInfo": "OTHERINFO",
}
"""The keys of site.cfg behind attributes of a site's own entries."""
_OF_THE_WHOLE = frozenset({"E025", "E026", "duplicate-id", "dangling-link"})
"""The rules about several entries: the others are checked where an entry is made."""


def findings(settings: BdiiSettings) -> Iterator[Finding]:
    """Yield what clients of this BDII do not find, and what EGI's validator would report."""
    published = StateDirectory(settings.state).published_file
    if settings.site is not None:
        yield from _of_pulls(settings.site.pulls)
        yield from _of_site(settings.site, settings.port)
    if not published.exists():
        return  # it has not run yet
    tree = _read(published)
    if settings.site is None and not any(map(_is_service, tree)):
        yield _empty(settings)
    found = profile.findings(tree, now=clock.now())
    if settings.site is not None:
        found = [each for each in found if each.code in _OF_THE_WHOLE]
    where = (str(published), 0)
    tried = "the tree published last, by EGI's profile of GLUE 2.0"
    yield from judgement.findings(found, lambda _: where, tried=tried, keys={}, chosen=())


def _read(path: Path) -> list[Entry]:
    """Return the entries of a file, of very many images the first."""
    found, images = [], 0
    with path.open("rb") as file:
        for entry in ldif.read(file):
            if not isinstance(entry, Entry):
                continue
            images += _IMAGE in entry.get("objectClass")
            if images <= _MOST_IMAGES or _IMAGE not in entry.get("objectClass"):
                found.append(entry)
    return found


def _is_service(entry: Entry) -> bool:
    return _SERVICE in entry.get("objectClass")


def _empty(settings: BdiiSettings) -> Finding:
    """Return the finding for a resource's BDII without a cloud, with what its provider says."""
    last = record.read("bdii-resource", settings.runs) or {}
    failures = last.get("failures")
    lines = [str(line) for line in failures] if isinstance(failures, list) else []
    reason = f": {lines[-1]}" if lines else ", and its last cycle reports nothing"
    path, line = finding.place(reason)
    text = f"the resource's BDII publishes no cloud{reason}; see appliance logs cloudbdii"
    return Finding(path, line, "", text, "C50.b", tried="the tree published last")


# --------------------------------------------------------------------------------------------------
# the BDIIs below a site's


def _of_pulls(pulls: Sequence[Pull]) -> Iterator[Finding]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for found in pool.map(_of_pull, pulls):
            if found is not None:
                yield found


def _of_pull(pull: Pull) -> Finding | None:
    host, port = hosts.split_port(pull.url.removeprefix("ldap://"))
    try:
        if _services(host, port, pull.base):
            return None
        # Either nothing is published there yet, or this line names another part of the tree.
        others = _services(host, port, "o=glue")
    except Unavailable as error:
        return _in_line(pull, f"{error.cause}; correct host and port in this line", "C50.c")
    except ApplianceError as error:
        return _in_line(pull, f"{error}; correct this line", "C50.c")
    if others:
        words = f"it lists no service below {pull.base}, but {others} elsewhere below o=glue"
        return _in_line(pull, f"{words}; correct the base in this line", "C50.c")
    words = "it answers, but lists no service; see the log of its provider, which says why"
    return _in_line(pull, words, "C50.b")


def _services(host: str, port: int, base: str) -> int:
    """Return the number of services below a base; none if there is no such base."""
    try:
        return len(
            directory.read(
                host,
                port=port,
                base=base,
                filter_=f"(objectClass={_SERVICE})",
                attributes=["1.1"],
                timeout=_ANSWER,
            )
        )
    except directory.Refused as error:
        if error.code != directory.NO_SUCH_OBJECT:
            raise
        return 0


def _in_line(pull: Pull, text: str, row: str) -> Finding:
    path, line = pull.place
    tried = f"LDAP search of {pull.url} below {pull.base}"
    return Finding(str(path), line, pull.name, f"{pull.url}: {text}", row, tried=tried)


# --------------------------------------------------------------------------------------------------
# EGI's profile


def _of_site(site: Site, port: int) -> Iterator[Finding]:
    """Yield the faults of a site's own entries, as the next cycle publishes them."""
    path, _, _ = site.named_in.rpartition(":")
    lines = _lines(Path(path)) if path else {}

    def place(attribute: str) -> tuple[str, int]:
        return path, lines.get(_KEYS.get(attribute, ""), 0)

    own = site_entries.entries(site, port=port)
    found = profile.findings(own, now=clock.now(), with_creation_times=False)
    tried = "the entries that describe the site, by EGI's profile of GLUE 2.0"
    yield from judgement.findings(found, place, tried=tried, keys=_KEYS, chosen=_KEYS)


def _lines(path: Path) -> Mapping[str, int]:
    numbered = enumerate(document.read_text(path).splitlines(), start=1)
    found = ((re.match(r"\s*(\w+)\s*=", line), number) for number, line in numbered)
    return {match[1]: number for match, number in found if match}
