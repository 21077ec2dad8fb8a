"""The steps of EGI's nova probe: an image, a flavor, a network, a server (C71).

The probe takes the first active image whose annotations have its reference, the flavor with the
fewest vCPUs, then the least memory, among those with 8 GB of disk, and an active network that the
project owns; without one, Nova chooses. Its servers carry the name of its host; ours carry a mark
of their own, by which a later run finds what a killed one has left.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from keystoneauth1 import exceptions
from keystoneauth1.adapter import Adapter

from appliance.core import clock, hosts
from appliance.core.cloud import answers, offer, pages
from appliance.core.cloud.compute import Server, Servers
from appliance.core.cloud.session import Scope
from appliance.core.config.settings import note
from appliance.core.run import place
from appliance.core.run.errors import CHECK_LOGS, ApplianceError, Unavailable
from appliance.core.run.finding import Finding

if TYPE_CHECKING:
    import requests

MARK = "fedcloud-check"
"""The metadata and the beginning of the name of a server of this check."""
BOOT = timedelta(minutes=4)
"""Time within which a server must be active; EGI's probe waits for five minutes."""
_GONE = timedelta(seconds=40)
_LEFT_BEHIND = timedelta(minutes=15)
"""The age from which on a server of another run is one that was killed."""
_PAUSE = 2.0
_DISK = 8
_ROW = "C71"
_REFERENCE = "eu.egi.cloud.image_ref"


def findings(scope: Scope, *, image: str, writes: bool) -> Iterator[Finding]:
    """Yield what stops the probe; with ``writes``, boot a server if nothing does.

    Raises:
        ApplianceError: The project, Nova or Glance cannot be asked.

    """
    can_boot = True
    chosen, fault = _image(scope, image)
    if fault:
        can_boot = False
        yield fault
    flavor = _flavor(scope)
    if not flavor:
        can_boot = False
        yield _no_flavor()
    network, unclear = _network(scope)
    if unclear:
        can_boot = False
        yield unclear
    left = [one for one in Servers(scope).living() if _is_left(one)]
    if left:
        named = ", ".join(f"{one['name']} ({one['id']})" for one in left)
        note(_ROW, f"{'deletes' if writes else 'with --write, deletes'} {named} of a former run")
    if writes:
        for one in left:
            _delete(scope, str(one["id"]))
        if can_boot:
            yield from _boot(scope, chosen, flavor, network)


# --------------------------------------------------------------------------------------------------
# the choice


def _image(scope: Scope, wanted: str) -> tuple[str, Finding | None]:
    """Return the id of the image that the probe takes; else the finding."""
    for image in offer.images(scope):
        text = image.get("APPLIANCE_ATTRIBUTES") or "{}"
        try:
            reference = json.loads(text).get(_REFERENCE, "")
        except (ValueError, AttributeError, RecursionError):
            words = (
                f"the image {image['id']} has a property APPLIANCE_ATTRIBUTES that is no JSON"
                f" object, at which EGI's probe ends; openstack image unset --property"
                f" APPLIANCE_ATTRIBUTES {image['id']}"
            )
            return "", Finding("", 0, "", words, "C71.a")
        if reference and reference == (wanted or reference):
            return str(image["id"]), None
    named = f"{_REFERENCE} {wanted}" if wanted else _REFERENCE
    plan = place.command("cloudkeeper", "cloudkeeper", "plan")
    words = (
        f"no active image in the project has {named}, so EGI's monitoring reports the site as"
        f" CRITICAL; look at {plan}, or at the images of the catch-all"
    )
    return "", Finding("", 0, "", words, "C71.a")


def _flavor(scope: Scope) -> str:
    """Return the id of the flavor that the probe takes; empty if there is none."""
    large = [one for one in offer.flavors(scope, offer.compute(scope)) if one["disk"] >= _DISK]
    smallest = min(large, key=lambda one: (one["vcpus"], one["ram"]), default=None)
    return str(smallest["id"]) if smallest else ""


def _no_flavor() -> Finding:
    words = (
        f"no flavor of the project has a disk of {_DISK} GB or more, so EGI's monitoring boots"
        " nothing; openstack flavor create --disk 10 --vcpus 1 --ram 2048 NAME"
    )
    return Finding("", 0, "", words, "C71.b")


def _network(scope: Scope) -> tuple[str, Finding | None]:
    """Return the network that the probe takes; none, and perhaps a finding, if Nova chooses."""
    listed = pages.follow(
        lambda url: _neutron(scope, url),
        "/v2.0/networks",
        key="networks",
        service="Neutron",
        catalog=scope.catalog_hosts,
        query={"limit": pages.PAGE_SIZE},
    )
    active = [one for one in listed if one.get("status") == "ACTIVE"]
    own = [one for one in active if one.get("project_id") == scope.project_id]
    if own:
        return str(own[0]["id"]), None
    shared = [one for one in active if one.get("shared") and not one.get("router:external")]
    if len(shared) == 1:
        return "", None
    words = (
        f"the project owns no active network and sees {len(shared)} shared ones, of which Nova"
        " cannot choose one; openstack network create --project PROJECT NAME, with a subnet"
    )
    return "", Finding("", 0, "", words, "C71.c")


def _neutron(scope: Scope, url: str) -> requests.Response:
    response = scope.network.get(url, raise_exc=False)
    return answers.accepted(response, service="Neutron", what="networks", scope=scope)


# --------------------------------------------------------------------------------------------------
# the server


def _is_left(server: Server) -> bool:
    """Check whether a server is one of ours, of a run that has ended."""
    metadata = server.get("metadata")
    if not isinstance(metadata, Mapping) or MARK not in metadata:
        return False
    try:
        return clock.now() - clock.parse(str(server["created"])) > _LEFT_BEHIND
    except (LookupError, ValueError):
        return False


def _boot(scope: Scope, image: str, flavor: str, network: str) -> Iterator[Finding]:
    made = {
        "name": f"{MARK}-{uuid.uuid4().hex[:8]}",
        "imageRef": image,
        "flavorRef": flavor,
        "metadata": {MARK: "1"},
        **({"networks": [{"uuid": network}]} if network else {}),
    }
    response = _nova(scope, "/servers", "POST", {"server": made})
    if response.status_code in (403, 400, 409):
        said = _said(response)
        grant = scope.access.grant(f"--project {scope.project_id}", "member")
        words = f"Nova refuses to boot the image {image}: {said}; {grant}, or look at its quota"
        yield Finding("", 0, "", words, "C71.d")
        return
    server = answers.body(response, "server", service="Nova", purpose="a request for a server")
    identifier = str(server["id"])
    try:
        if state := _wait(scope, identifier):
            yield Finding("", 0, "", f"a server of the image {image} {state}", "C71.d")
    finally:
        with contextlib.suppress(ApplianceError):  # reported below, as it is still there
            _delete(scope, identifier)
    if _status(scope, identifier)[0]:
        words = (
            f"the server {identifier} is still there {int(_GONE.total_seconds())} s after it was"
            f" deleted; openstack server delete {identifier}"
        )
        yield Finding("", 0, "", words, "C71.d")


def _wait(scope: Scope, identifier: str) -> str:
    """Return why a server did not become active; empty if it did."""
    end = time.monotonic() + BOOT.total_seconds()
    while time.monotonic() < end:
        status, fault = _status(scope, identifier)
        if status == "ACTIVE":
            return ""
        if status == "ERROR":
            return f"ends in the status ERROR: {fault or 'no reason is given'}; see Nova's logs"
        time.sleep(_PAUSE)
    return f"is not active after {int(BOOT.total_seconds())} s; see Nova's logs"


def _delete(scope: Scope, identifier: str) -> None:
    response = _nova(scope, f"/servers/{identifier}", "DELETE")
    if not response.ok and response.status_code != answers.NOT_FOUND:
        raise answers.unexpected(response, service="Nova", purpose="the deletion of a server")
    end = time.monotonic() + _GONE.total_seconds()
    while time.monotonic() < end and _status(scope, identifier)[0]:
        time.sleep(_PAUSE)


def _status(scope: Scope, identifier: str) -> tuple[str, str]:
    """Return the status of a server and the message of its fault; empty if it is gone."""
    response = _nova(scope, f"/servers/{identifier}", "GET")
    if response.status_code == answers.NOT_FOUND:
        return "", ""
    server = answers.body(response, "server", service="Nova", purpose="a request for a server")
    fault = server.get("fault")
    said = fault.get("message") if isinstance(fault, Mapping) else ""
    return str(server.get("status") or "UNKNOWN"), " ".join(str(said or "").split())[:200]


def _said(response: requests.Response) -> str:
    """Return the message of an error of Nova, ``{KIND: {"message": …}}``."""
    try:
        (found,) = response.json().values()
        return " ".join(str(found["message"]).split())[:200]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"status {response.status_code}"


def _nova(
    scope: Scope, path: str, method: str, content: Mapping[str, Any] | None = None
) -> requests.Response:
    try:
        return Adapter.request(
            scope.nova, path, method, json=content, raise_exc=False, microversion="2.1"
        )
    except exceptions.ClientException as error:
        words = f"{method} {path}: {error}"
        raise Unavailable(hosts.of_url(scope.access.auth_url), words, CHECK_LOGS) from error
