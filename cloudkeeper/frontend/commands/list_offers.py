"""``cloudkeeper list``: print the images that the sources offer now; read only."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.run import cli, output
from appliance.core.run.errors import ExitStatus
from cloudkeeper.frontend.commands import startup
from cloudkeeper.model import SBOM_KEY, ImageList, Offer

if TYPE_CHECKING:  # start-up is a cost
    from cloudkeeper.frontend.sources import OfferSource

_FORMATS = ("hv:format", "org.openstack.glance.disk_format")
_SHOWN = 12
"""Hexadecimal digits of a digest; JSON has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags, and those of the configuration."""
    parser.add_argument("--json", action="store_true", help="print the images as JSON")
    startup.add_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the images of each source that can be read; the others are failures."""
    configured = startup.configure(arguments, is_reading=True)
    if arguments.check_config:
        return startup.report_check(configured)
    from cloudkeeper.frontend.commands import assembly  # noqa: PLC0415  loads gRPC and requests
    from cloudkeeper.frontend.reading import OfferSources  # noqa: PLC0415

    report = assembly.report(configured)
    state = cli.layout(arguments).path(startup.STATE)
    sources = OfferSources(assembly.sources(configured, state=state), keeps=False)
    accepted = list(sources.accepted(report, at=clock.now()))
    if arguments.json:
        images = [
            _as_json(source, found, offer)
            for source, lists in accepted
            for found in lists
            for offer in found.offers
        ]
        output.document(
            {"images": images, "ignored": _ignored(accepted), "failures": report.failures}
        )
    else:
        for source, lists in accepted:
            _print(source, lists)
    return ExitStatus.PARTLY if report.failures else ExitStatus.DONE


def _print(source: OfferSource, lists: Sequence[ImageList]) -> None:
    """Print the images of a source once for all VOs that get the same."""
    by_images: dict[tuple[str, ...], list[ImageList]] = {}
    for found in lists:
        parts = ([offer.appliance for offer in found.offers], found.ignored)
        key = tuple(one.identifier for part in parts for one in part)
        by_images.setdefault(key, []).append(found)
    for same in by_images.values():
        vos, offers = ", ".join(found.vo for found in same), same[0].offers
        signed = ", all signed" if _is_signed(source) else ""
        output.line(f"{source} for {vos}: {output.count(len(offers), 'image')}{signed}")
        if offers:
            heads = ("image", "version", "format", "size", "expires", "digest", "")
            output.table([heads, *map(_row, offers)], indent="  ")
        if ignored := same[0].ignored:
            output.line(f"  ignored by the configuration: {output.count(len(ignored), 'image')}")
            output.table([(one.identifier, one.title) for one in ignored], indent="    ")


def _ignored(
    accepted: Iterable[tuple[OfferSource, Sequence[ImageList]]],
) -> list[dict[str, object]]:
    """Return the images that the configuration ignores, for JSON."""
    return [
        {
            "source": str(source),
            "vo": found.vo,
            "list": found.identifier,
            "image": one.identifier,
            "title": one.title,
        }
        for source, lists in accepted
        for found in lists
        for one in found.ignored
    ]


def _is_signed(source: OfferSource) -> bool:
    """Check whether each image was signed: by its list's endorser, or with a configured key."""
    from cloudkeeper.frontend.registry.project import RegistryProject  # noqa: PLC0415

    return not isinstance(source, RegistryProject) or source.signatures is not None


def _row(offer: Offer) -> tuple[str, ...]:
    appliance, source = offer.appliance, offer.source
    algorithm, _, digits = source.digest.partition(":")
    title = "" if appliance.title.endswith(appliance.identifier) else appliance.title
    sboms = len(appliance.attributes.get(SBOM_KEY, "").split())
    extra = [output.count(sboms, "SBOM") if sboms else "", title]
    return (
        appliance.identifier,
        appliance.version or "-",
        _format(offer),
        output.size(source.size),
        _expiry(offer),
        f"{algorithm}:{digits[:_SHOWN]}",
        ", ".join(filter(None, extra)),
    )


def _format(offer: Offer) -> str:
    attributes = offer.appliance.attributes
    declared = next(filter(None, map(attributes.get, _FORMATS)), "-").lower()
    return "+".join(filter(None, (declared, offer.source.compression)))


def _expiry(offer: Offer) -> str:
    expires = offer.appliance.expires
    if expires is None:
        return "never"
    gone = " (expired)" if offer.appliance.is_expired(at=clock.now()) else ""
    return f"{expires:%Y-%m-%d}{gone}"


def _as_json(source: OfferSource, found: ImageList, offer: Offer) -> dict[str, object]:
    appliance = offer.appliance
    return {
        "source": str(source),
        "vo": found.vo,
        "list": found.identifier,
        "image": appliance.identifier,
        "title": appliance.title,
        "version": appliance.version,
        "digest": offer.source.digest,
        "size": offer.source.size,
        "format": _format(offer),
        "expires": appliance.expires,
        "is_signed": _is_signed(source),
        "sboms": appliance.attributes.get(SBOM_KEY, "").split(),
    }


VERB = cli.Program("list", "Print the images that the sources offer.", add_arguments, run)
