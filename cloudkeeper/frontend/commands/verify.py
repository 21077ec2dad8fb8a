"""``cloudkeeper verify LIST``: check an image list, as ``sync`` would, without a configuration.

The exit status is 0 only if every subscriber would accept the list: some refuse a list for one
image that cannot be used, or for a key that it lacks, which costs ``sync`` this image at most.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import clock, files
from appliance.core.hosts import SCHEMES
from appliance.core.run import cli, output
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure, UsageError
from cloudkeeper.model import Endorser

if TYPE_CHECKING:  # start-up is a cost
    from appliance.core.trust.ca_directory import CADirectory
    from cloudkeeper.frontend.imagelist import VerifiedImageList
    from cloudkeeper.model import Refusal, SignedImageList

_CA_DIR = "/etc/grid-security/certificates"
_NAME = "cloudkeeper"
logger = logging.getLogger(_NAME)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument("list", metavar="LIST", help="file or URL of the list; - is standard input")
    words = f"directory of CA certificates and CRLs (default: {_CA_DIR})"
    parser.add_argument("--ca-dir", type=Path, default=Path(_CA_DIR), metavar="DIR", help=words)
    parser.add_argument(
        "--crls",
        choices=("require", "warn", "off"),
        default="warn",
        help="if a CRL is missing or stale: warn (status 0), or refuse (require); off: read no CRL",
    )
    words = "accept only this subject of the signer's certificate, in slash form"
    parser.add_argument("--endorser-dn", metavar="DN", help=words)
    words = "accept only this issuer of the signer's certificate, in slash form"
    parser.add_argument("--endorser-ca", metavar="DN", help=words)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Verify the list and print its contents, or the reason for its refusal."""
    endorser = endorser_of(arguments)
    if arguments.check_config:  # there is none
        return ExitStatus.DONE
    # Imported here: these take long to import, and --help needs none.
    from appliance.core.trust.ca_directory import CADirectory, CRLPolicy  # noqa: PLC0415
    from appliance.core.trust.errors import Malformed, Untrusted  # noqa: PLC0415
    from cloudkeeper.frontend import imagelist, strict  # noqa: PLC0415

    trust = CADirectory(arguments.ca_dir, crls=CRLPolicy(arguments.crls))
    name, message = _read(arguments.list, trust)
    try:
        found = imagelist.verify(message, trust=trust, at=clock.now(), endorser=endorser)
    except (Malformed, Untrusted) as error:
        return _refuse(name, str(error).removeprefix("image list: "), as_json=arguments.json)
    for warning in found.warnings:
        logger.warning("%s: %s", name, warning)
    findings = strict.findings(found.payload)
    if arguments.json:
        output.document(_as_json(found, name, findings))
    else:
        _print(found.content, findings)
    return _verdict(name, found.content, findings)


def _verdict(name: str, found: SignedImageList, findings: Sequence[Refusal]) -> ExitStatus:
    """Report in a line or two whether every subscriber would accept the list."""
    causes = []
    if found.refused:
        refused = len(found.refused)
        images = f"{refused} of {refused + len(found.offers)} images"
        causes.append(f"{images} cannot be used, so strict subscribers refuse the list")
    if findings:
        number = output.count(len(findings), "finding")
        causes.append(f"{number}: other subscribers refuse the list, or values of it are lost")
    for cause in causes:
        cli.report(_NAME, ApplianceError(name, cause, "correct them"))
    return ExitStatus.PARTLY if causes else ExitStatus.DONE


def endorser_of(arguments: argparse.Namespace) -> Endorser | None:
    """Return the endorser that the flags name.

    Raises:
        UsageError: one of the flags is missing.

    """
    dn, ca = arguments.endorser_dn, arguments.endorser_ca
    if bool(dn) != bool(ca):
        given, other = ("--endorser-dn", "--endorser-ca")[:: 1 if dn else -1]
        raise UsageError(given, f"needs {other}, too", "give both or none")
    return Endorser(dn, ca) if dn else None


def _read(place: str, trust: CADirectory) -> tuple[str, bytes]:
    """Return the name of a list for messages, and its content."""
    from appliance.core.download.downloader import Downloader  # noqa: PLC0415
    from cloudkeeper.frontend import addresses, imagelist  # noqa: PLC0415

    most = imagelist.MAX_BYTES + 1  # so that the verification refuses a longer one
    if place == "-":
        return "standard input", sys.stdin.buffer.read(most)
    if place.partition("://")[0] in SCHEMES:
        found, problems = addresses.read([(place, 0)], path=Path())
        if problems:
            raise UsageError("LIST", problems[0].text)
        (address,) = found
        content = Downloader(trust).fetch(
            address.url,
            name=address.name,
            max_bytes=most,
            user=address.user,
            password=address.password,
        )
        return address.name, content
    path = Path(place)
    try:
        with files.named(path), path.open("rb") as file:
            return files.shown(path), file.read(most)
    except OSError as error:
        raise LocalFailure.from_os(error, subject=files.shown(path)) from error


def _refuse(name: str, reason: str, *, as_json: bool) -> ExitStatus:
    if as_json:
        output.document({"list": name, "accepted": False, "reason": reason})
    cli.report(_NAME, ApplianceError(name, f"refused: {reason}"))
    return ExitStatus.PARTLY


def _print(found: SignedImageList, findings: Sequence[Refusal]) -> None:
    expired = sum(offer.appliance.is_expired(at=clock.now()) for offer in found.offers)
    images = f"{len(found.offers)}, {expired} of them expired" if expired else len(found.offers)
    signer = found.signer or found.endorser
    rows = [
        ("identifier", found.identifier),
        ("VO", found.vo),
        ("endorser", found.endorser.dn),
        ("", f"of {found.endorser.ca}"),
        ("signer", signer.dn),
        ("", f"of {signer.ca}"),
        ("created", output.moment(found.created)),
        ("expires", output.moment(found.expires)),
        ("images", str(images)),
        *(("refused", f"{each.identifier or '?'}: {each.reason}") for each in found.refused),
        *(("finding", f"{each.identifier or 'the list'}: {each.reason}") for each in findings),
    ]
    output.table(rows)


def _as_json(
    verified: VerifiedImageList, name: str, findings: Sequence[Refusal]
) -> dict[str, object]:
    found = verified.content
    signer = found.signer or found.endorser
    return {
        "list": name,
        "accepted": not found.refused and not findings,
        "identifier": found.identifier,
        "vo": found.vo,
        "endorser": {"dn": found.endorser.dn, "ca": found.endorser.ca},
        "signer": {"dn": signer.dn, "ca": signer.ca},
        "created": found.created,
        "expires": found.expires,
        "images": [offer.appliance.identifier for offer in found.offers],
        "refused": [_reason(each) for each in found.refused],
        "findings": [_reason(each) for each in findings],
        "warnings": list(verified.warnings),
    }


def _reason(refusal: Refusal) -> dict[str, str | None]:
    return {"image": refusal.identifier, "reason": refusal.reason}


VERB = cli.Program(
    "verify",
    "Check whether every subscriber accepts a list; no configuration.",
    add_arguments,
    run,
)
