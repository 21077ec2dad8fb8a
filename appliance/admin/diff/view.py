"""What a reader of the information system sees of a site, and the differences of two views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from appliance.core import site_document
from appliance.core.site_document import FLAVOR, IMAGE, POLICY, SHARE, Document, Object

_REGISTRY = "registry.egi.eu"
"""Images whose place contains it have an identifier and a version for EGI's service."""

Offers = Mapping[str, Mapping[str, str]]
"""By VO, the things that it is offered: each with what else must agree."""


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site as one side shows it.

    Attributes:
        name: the name that it is listed under.
        url: URL of Keystone.
        projects: by VO, its projects, sorted and separated by commas.
        images: by VO, the images by identifier, each with version and id in the cloud.
        flavors: by VO, the names of flavors; None if this side does not show them.
        created: when the cloud was read; None if this side does not show it.
        valid_until: when the information expires; None if this side does not show it.
        others: names of further sites of the same GOCDB id.

    """

    name: str
    url: str
    projects: Mapping[str, str]
    images: Offers
    flavors: Offers | None = None
    created: datetime | None = None
    valid_until: datetime | None = None
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class ViewDifference:
    """A difference; ``here`` or ``there`` is empty where that side lacks it."""

    what: str
    vo: str
    subject: str
    here: str
    there: str


def of_document(document: Document) -> SiteView:
    """Return the view of a site's JSON, as EGI's service reads it."""
    vos = {
        share: vo
        for policy in document.get(POLICY, ())
        for share in site_document.related(policy, SHARE)
        for vo in site_document.related(policy, "PolicyUserDomain")[:1]
    }
    service = site_document.first(document, site_document.SERVICE)
    return SiteView(
        name=site_document.site(document),
        url=site_document.url(document),
        projects=projects_by_vo(
            (vos[str(share.get("ID"))], str(share.get("ProjectID") or ""))
            for share in document.get(SHARE, ())
            if str(share.get("ID")) in vos
        ),
        images=_by_vo(document.get(IMAGE, ()), vos, _image),
        flavors=_by_vo(document.get(FLAVOR, ()), vos, _flavor),
        created=site_document.created(document),
        valid_until=site_document.valid_until(service),
    )


def projects_by_vo(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the projects of each VO, which may have several, in a form that can be compared."""
    found: dict[str, set[str]] = {}
    for vo, project in pairs:
        found.setdefault(vo, set()).add(project)
    return {vo: ", ".join(sorted(projects)) for vo, projects in found.items()}


def _by_vo(
    objects: Iterable[Object],
    vos: Mapping[str, str],
    read: Callable[[Object], tuple[str, str]],
) -> Offers:
    return offers(
        (vos[share], *read(one))
        for one in objects
        for share in site_document.related(one, SHARE)
        if share in vos
    )


def offers(rows: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    """Return what is offered, from rows of VO, name, and what else must agree.

    An image that is being replaced is there twice, in any order: both count.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for vo, name, rest in rows:
        found.setdefault(vo, {}).setdefault(name, set()).add(rest)
    return {
        vo: {name: "; ".join(sorted(each)) for name, each in named.items()}
        for vo, named in found.items()
    }


def _flavor(one: Object) -> tuple[str, str]:
    return str(one.get("Name") or one.get("ID")), ""


def _image(one: Object) -> tuple[str, str]:
    place, other = str(one.get("MarketplaceURL") or ""), one.get("OtherInfo")
    known = other if isinstance(other, dict) and _REGISTRY in place else {}
    identifier = str(known.get("eu.egi.cloud.image_ref") or (place if known else ""))
    version = str(known.get("eu.egi.cloud.tag") or "")
    return image_row(identifier, version, str(one.get("ID") or ""))


def image_row(identifier: str, version: str, image_id: str) -> tuple[str, str]:
    """Return the name of an image for the comparison, and what else must agree."""
    if not identifier:
        return image_id, "present"
    return identifier, f"version {version or 'unknown'}, id {image_id}"


# --------------------------------------------------------------------------------------------------
# differences


def differences(here: SiteView, there: SiteView | None, *, now: datetime) -> list[ViewDifference]:
    """Return what differs between the site's own view and the other one, None if it has no site."""
    found = [*_ages(here, there, now)]
    if there is None:
        return [*found, ViewDifference("site", "", here.name, "published", "")]
    found += [ViewDifference("site", "", name, "", "listed too") for name in there.others]
    if there.name != here.name:
        found.append(ViewDifference("site", "", "name", here.name, there.name))
    if plain(here.url) != plain(there.url):
        found.append(ViewDifference("url", "", "Keystone", here.url, there.url))
    for vo in sorted({*here.projects, *there.projects}):
        ours, theirs = here.projects.get(vo, ""), there.projects.get(vo, "")
        if not (ours and theirs):
            found.append(ViewDifference("VO", vo, "", ours and "published", theirs and "listed"))
        elif ours != theirs:
            found.append(ViewDifference("project", vo, "", ours, theirs))
    common = here.projects.keys() & there.projects.keys()
    found += _offers("image", common, here.images, there.images)
    if here.flavors is not None and there.flavors is not None:
        found += _offers("flavor", common, here.flavors, there.flavors)
    return found


def _offers(what: str, vos: Iterable[str], here: Offers, there: Offers) -> Iterator[ViewDifference]:
    for vo in sorted(vos):
        ours, theirs = here.get(vo, {}), there.get(vo, {})
        for name in sorted({*ours, *theirs}):
            one, other = ours.get(name), theirs.get(name)
            if one != other:
                words = [text or "present" if text is not None else "" for text in (one, other)]
                yield ViewDifference(what, vo, name, *words)


def _ages(here: SiteView, there: SiteView | None, now: datetime) -> Iterator[ViewDifference]:
    """Yield a difference for each side that shows expired information."""
    sides = [_age(here, now), _age(there, now) if there is not None else ""]
    if any(sides):
        yield ViewDifference("age", "", "expired", *sides)


def _age(view: SiteView, now: datetime) -> str:
    if view.valid_until is None or view.valid_until >= now:
        return ""
    read = f", read {ago(now - view.created)} ago" if view.created else ""
    return f"expired {ago(now - view.valid_until)} ago{read}"


def ago(span: timedelta) -> str:
    """Return a span of time in words."""
    minutes = max(round(span.total_seconds() / 60), 0)
    if minutes < 120:  # noqa: PLR2004  two hours
        return f"{minutes} minutes"
    hours = round(minutes / 60)
    return f"{hours} hours" if hours < 72 else f"{round(hours / 24)} days"  # noqa: PLR2004


def plain(url: str) -> str:
    """Return a URL for comparison: without a port that its scheme implies, or a slash at its end.

    EGI's probe accepts the URL with and without ``:443``, too.
    """
    try:
        parts = urlsplit(url.strip().rstrip("/"))
    except ValueError:  # half a bracket: no URL
        return url
    usual = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    place = parts.netloc.lower()
    return parts._replace(netloc=place.removesuffix(usual) if usual else place).geturl()
