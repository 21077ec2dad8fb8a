"""What every format is made from, and what it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloud_info_provider.facts import Facts, Share
from cloud_info_provider.settings import ShareSettings, SiteSettings


@dataclass(frozen=True, slots=True)
class PublishedCloud:
    """A cloud with its description.

    Attributes:
        facts: the cloud as read.
        site: its description by the administrator.
        shares: all configured shares, read or not.
        endpoint: Keystone's URL as configured; GOCDB and the names of published objects have it.
        auth_url: the same URL with its version, ``…/v3``.
        auth_type: the name of the plugin by which this program logs in.

    """

    facts: Facts
    site: SiteSettings
    shares: Sequence[ShareSettings]
    endpoint: str
    auth_url: str
    auth_type: str


def missing_flavors(facts: Facts) -> list[str]:
    """Return a line if no VO may use any flavor; no line otherwise."""
    if any(share.flavors for share in facts.shares):
        return []
    words = "make flavors public, or give the VOs' projects access to some"
    return [f"no VO may use any flavor, so no server can be started; {words}"]


def settings_of(share: Share, configured: Sequence[ShareSettings]) -> ShareSettings:
    """Return the settings of a share; a VO can have several projects."""
    of_vo = [each for each in configured if each.vo == share.vo]
    return next((each for each in of_vo if each.project_id == share.project_id), of_vo[0])


@dataclass(frozen=True, slots=True)
class Rendering:
    """A cloud in one format, with the number of its entries or objects.

    ``problems`` are lines about parts of the cloud that this format cannot show; ``has_errors``
    says whether a validation found errors.
    """

    text: str
    count: int
    problems: tuple[str, ...] = ()
    has_errors: bool = False
