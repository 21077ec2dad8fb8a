"""What the programs are asked for with ``--as-egi``: which of them looks at what."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.admin import egi
from appliance.admin.egi import EgiServices
from appliance.core import gocdb

ACCOUNTING, PROVIDERS = "caso", ("cloudbdii", "cloud-info")


def flags(
    names: Iterable[str], services: EgiServices, *, writes: bool
) -> dict[str, tuple[str, ...]]:
    """Return the flags of each program that is asked, by job or service.

    The account of accounting usually may read more of Keystone, so it looks at the cloud if it can.
    """
    asked = set(names)
    provider = next((name for name in PROVIDERS if name in asked), "")
    parts: dict[str, list[str]] = {}
    if ACCOUNTING in asked:
        parts[ACCOUNTING] = ["cloud", *(["portal"] if services.portal else [])]
    if provider:
        parts[provider] = ["auditor"] if parts else ["cloud", "auditor"]
    return {name: tuple(_flags(name, one, services, writes)) for name, one in parts.items()}


def notes(
    names: Iterable[str], services: EgiServices, settings_file: object
) -> list[tuple[str, str]]:
    """Return what is not asked of EGI, because nothing says where."""
    if services.portal or ACCOUNTING not in names:
        return []
    text = (
        "no month is compared with the accounting portal; to compare, write the URL of its table of"
        f" months by VO (CSV or JSON) as {egi.place('portal', settings_file)}"
    )
    return [("C75", text)]


def of_gocdb(names: Iterable[str], services: EgiServices) -> dict[str, tuple[str, ...]]:
    """Return the flag of each provider that is to ask another GOCDB than EGI's, or none."""
    if services.gocdb == gocdb.URL:
        return {}
    flag = f"--gocdb-url={services.gocdb}"
    return {name: (flag,) for name in names if name in PROVIDERS}


def _flags(name: str, parts: list[str], services: EgiServices, writes: bool) -> Iterable[str]:
    yield from ("--as-egi", ",".join(parts), "--egi-vo", services.vo)
    if services.image:
        yield from ("--egi-image", services.image)
    if services.portal and name == ACCOUNTING:
        yield from ("--portal-url", services.portal)
    if services.auditor and "auditor" in parts:
        yield from ("--auditor-role-cloud", services.auditor)
    if writes and "cloud" in parts:
        yield "--write"
