"""What a site's BDII pulls from the BDIIs below it, and where that goes in the site's tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from appliance.core import ldif
from appliance.core.ldif import Entry, LdifError
from bdii.site.settings import Pull, Site
from bdii.sources.answers import SourceAnswer
from bdii.sources.source import LdifSource
from bdii.tree import SUFFIX, normal

_SUFFIX = re.compile(r", *o *= *glue *$", re.IGNORECASE)
_NO_SUCH_OBJECT = 32  # of LDAP, which ldapsearch ends with


def sources(site: Site, *, limit: int) -> list[LdifSource]:
    """Return the sources that a site names."""
    return [
        LdifSource(
            f"site/{pull.name}",
            _search(pull, site),
            is_program=True,
            timeout=site.timeout,
            limit=limit,
            translate=lambda entries: below(site.name, entries),
            meanings={
                _NO_SUCH_OBJECT: f"{pull.url} answers, but has no {pull.base} yet: its own log may tell why"
            },
        )
        for pull in site.pulls
    ]


def skipped(site: Site) -> list[SourceAnswer]:
    """Return an answer of no use for each wrong line: what its BDII said last stays published."""
    taken = {"", *(pull.name for pull in site.pulls)}
    answers = []
    for problem in site.problems:
        name = f"line {problem.line}" if problem.option in taken else problem.option
        answers.append(SourceAnswer(f"site/{name}", None, problems=(f"{problem}; skipped",)))
    return answers


def _search(pull: Pull, site: Site) -> list[str]:
    """Return the command that reads a subtree: another process, whose time and size can be bounded from outside."""
    seconds = f"{site.timeout.total_seconds():.0f}"
    return [
        *(
            "env",
            "LDAPNOINIT=1",
            "ldapsearch",
            "-LLL",
            "-x",
            "-o",
            "ldif-wrap=no",
            "-o",
            f"nettimeout={seconds}",
        ),
        *("-l", seconds, "-H", pull.url, "-b", pull.base),
    ]


def below(site: str, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield entries with ``o=glue`` at the end of their names replaced by the site's domain.

    Left out are the suffix itself and what lies in this site's domain already: a BDII may list
    itself, or one that lists it.
    """
    domain = ldif.child(SUFFIX, "GLUE2DomainID", site)
    inside = normal(domain)
    for entry in entries:
        try:
            dn = normal(entry.dn)
        except LdifError:
            yield entry  # told of by the reader
            continue
        if dn in (SUFFIX, inside) or dn.endswith(f",{inside}"):
            continue
        if not dn.endswith(f",{SUFFIX}"):
            yield entry  # told of by the reader, too
        elif _SUFFIX.search(entry.dn):
            yield replace(entry, dn=_SUFFIX.sub(lambda _: f",{domain}", entry.dn))
        else:  # the suffix is there in another spelling, with escapes
            yield replace(entry, dn=dn.removesuffix(SUFFIX) + domain)
