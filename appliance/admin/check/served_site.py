"""What EGI's information service serves of this site, as EGI's probe and users read it (C70)."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.admin.check.across import SITE_NAMES
from appliance.admin.check.probe import CheckedSite
from appliance.admin.diff import served, view
from appliance.admin.diff.view import SiteView
from appliance.core.config.settings import KEYSTONE, VO, Value
from appliance.core.run.finding import Finding

_WHO = (
    "look at `appliance diff information`, and ask the operators of EGI's catch-all if the site's"
    " description there is right"
)


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield findings if the service lacks this site, a VO or its images, or has expired data."""
    service, urls = site.host.egi.information, site.facts(KEYSTONE)
    if not service or not urls:
        return
    ours, tried = urls[0], f"GET {service}"
    there = served.read(
        site.reader("information"), service, name=_name(site), gocdb_id="", url=ours.text
    )
    if there is None or view.plain(there.url) != view.plain(ours.text):
        yield _absent(ours, there, tried)
        return
    if there.valid_until is not None and there.valid_until < site.now:
        ago = view.ago(site.now - there.valid_until)
        yield _finding(ours, f"its information there expired {ago} ago; {_WHO}", "C70.d", tried)
    if there.others:
        named = ", ".join(there.others)
        text = f"is there as {there.name} and as {named}, so users see it twice; {_WHO}"
        yield _finding(ours, text, "C70", tried)
    yield from _vos(site, there, tried)


def _absent(ours: Value, there: SiteView | None, tried: str) -> Finding:
    if there is not None:
        words = f"the site {there.name} has the URL {there.url} there"
    else:
        words = "no site there has this URL"
    text = f"{words}, so EGI's monitoring reports {ours.text} as CRITICAL; {_WHO}"
    return Finding(str(ours.path), ours.line, "auth_url", text, "C70.a", tried=tried)


def _vos(site: CheckedSite, there: SiteView, tried: str) -> Iterator[Finding]:
    for fact in {one.text: one for one in site.facts(VO)}.values():
        vo, place = fact.text, (str(fact.path), fact.line)
        if vo not in there.projects:
            text = f"the VO is not listed there, so its users do not find this site; {_WHO}"
            yield Finding(*place, vo, text, "C70.b", is_error=False, tried=tried)
        elif not _has_image(there, vo):
            text = f"no image of EGI's registry is listed there for the VO; {_WHO}"
            yield Finding(*place, vo, text, "C70.c", is_error=False, tried=tried)


def _has_image(there: SiteView, vo: str) -> bool:
    # Others have the word of `view.image_row` in place of a version.
    return any(rest.startswith("version ") for rest in there.images.get(vo, {}).values())


def _name(site: CheckedSite) -> str:
    named = (one.text for one in site.values if (one.section, one.option) in SITE_NAMES)
    return next(named, "")


def _finding(ours: Value, text: str, row: str, tried: str) -> Finding:
    return Finding(str(ours.path), ours.line, "", text, row, is_error=False, tried=tried)
