"""The rows of images: the frontend's last sync, the backend, and the images of each source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from appliance.admin.inventory import Flow
from appliance.admin.status import evidence
from appliance.admin.status.evidence import SiteEvidence
from appliance.admin.status.records import Last
from appliance.admin.status.row import Light, Row

_NAMES = {
    "removals_withheld": "removals held",
    "lists_refused": "lists refused",
    "images_failed": "failed",
    "images_added": "added",
    "images_updated": "updated",
    "images_removed": "removed",
    "images_unchanged": "unchanged",
    "images_held_by_others": "of others",
}


def rows(site: SiteEvidence) -> Iterator[Row]:
    """Yield the rows of the flow of images."""
    last = site.last("cloudkeeper")
    if site.is_known("cloudkeeper"):
        figures = {name: last.figure(name) for name in _NAMES} if last else {}
        yield evidence.of_job(site, "cloudkeeper", details=_details(last), figures=figures)
    backend = evidence.of_service(
        site, "cloudkeeper-os", program="cloudkeeper-os", details=_held(site)
    )
    if backend:
        yield backend
    if last:
        yield from _sources(last)


def _details(last: Last | None) -> str:
    found = ((last.figure(name), word) for name, word in _NAMES.items()) if last else ()
    return ", ".join(f"{number:g} {word}" for number, word in found if number)


def _held(site: SiteEvidence) -> str:
    last = site.runs.get("cloudkeeper-os")
    number = last.figure("images") if last else None
    return f"{number:g} images" if number is not None else ""


def _sources(last: Last) -> Iterator[Row]:
    """Yield a row for each source: the images that the cloud has of it, and whose they are."""
    parts = last.parts.get("source")
    for name, figures in sorted(parts.items()) if isinstance(parts, dict) else ():
        if isinstance(figures, dict):
            yield _source(str(name), figures)


def _source(name: str, figures: Mapping[str, object]) -> Row:
    total, others = (_number(figures.get(key)) for key in ("images", "images_of_others"))
    details = f"{total - others:g} images ours, {others:g} of others"
    known = {"images": total, "images_of_others": others}
    return Row(Flow.IMAGES.value, name, Light.OK, details, figures=known, is_source=True)


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0
