"""The sources of a site's BDII: the BDIIs below it, and their place in the site's tree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta

from appliance.core import ldif
from appliance.core.ldif import Entry, LdifError
from bdii.site.settings import Pull, Site
from bdii.slapd import infosys
from bdii.sources import ldapsearch
from bdii.sources.model import LdifSource, SourceAnswer
from bdii.tree import SUFFIX, normal

_SUFFIX = re.compile(r", *o *= *glue *$", re.IGNORECASE)
_WITHOUT_IMAGES = "(!(objectClass=GLUE2ApplicationEnvironment))"
_VERSION_PATIENCE = timedelta(seconds=5)


def sources(site: Site, *, limit: int) -> list[LdifSource]:
    """Return the sources of a site."""
    return [
        LdifSource(
            f"site/{pull.name}",
            _search(pull, site),
            is_program=True,
            timeout=site.timeout,
            limit=limit,
            version=_version(pull),
            translate=lambda entries: below(site.name, entries),
            meanings={ldapsearch.NO_SUCH_OBJECT: _meaning(pull)},
        )
        for pull in site.pulls
    ]


def _meaning(pull: Pull) -> str:
    return f"{pull.url} answers, but has no {pull.base} yet; see its own log"


def _version(pull: Pull) -> list[str]:
    """Return the command that prints the version of the tree; of other programs' BDIIs, nothing."""
    asked = ("-s", "base", f"({infosys.VERSION}=*)", infosys.VERSION)
    return ldapsearch.command(pull.url, infosys.SUFFIX, *asked, patience=_VERSION_PATIENCE)


def skipped(site: Site) -> list[SourceAnswer]:
    """Return an unusable answer for each wrong line: the last good data of its BDII stay."""
    taken = {"", *(pull.name for pull in site.pulls)}
    answers = []
    for problem in site.problems:
        name = f"line {problem.line}" if problem.option in taken else problem.option
        answers.append(SourceAnswer(f"site/{name}", None, problems=(f"{problem}; skipped",)))
    return answers


def _search(pull: Pull, site: Site) -> list[str]:
    """Return the command that reads a subtree."""
    images = () if site.has_images else (_WITHOUT_IMAGES,)
    return ldapsearch.command(pull.url, pull.base, *images, patience=site.timeout)


def below(site: str, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield entries with the suffix ``o=glue`` of their names replaced by the site's domain.

    The suffix itself and entries that are in this site's domain already are left out: a BDII may
    list itself, or one that lists it.
    """
    domain = ldif.child(SUFFIX, "GLUE2DomainID", site)
    inside = normal(domain)
    for entry in entries:
        try:
            dn = normal(entry.dn)
        except LdifError:
            yield entry  # `bdii.tree.of` reports it
            continue
        if dn in (SUFFIX, inside) or dn.endswith(f",{inside}"):
            continue
        if not dn.endswith(f",{SUFFIX}"):
            yield entry  # `bdii.tree.of` reports it, too
        elif _SUFFIX.search(entry.dn):
            yield replace(entry, dn=_SUFFIX.sub(lambda _: f",{domain}", entry.dn))
        else:  # the suffix is spelled with escapes
            yield replace(entry, dn=dn.removesuffix(SUFFIX) + domain)
