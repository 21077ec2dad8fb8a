"""The sources of a run, built from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.core.download.downloader import Downloader
from appliance.core.registry.client import RegistryClient
from appliance.core.registry.login import Login
from appliance.core.trust.ca_directory import CADirectory
from cloudkeeper.frontend import imagelist
from cloudkeeper.frontend.ended import ConfiguredLists, EndedPolicy
from cloudkeeper.frontend.list_cache import ListCache
from cloudkeeper.frontend.memory import Memory
from cloudkeeper.frontend.registry import accepted_lists
from cloudkeeper.frontend.registry.kept import KeptByDigest
from cloudkeeper.frontend.registry.listing import DistributionListing, HarborListing
from cloudkeeper.frontend.registry.manifests import Manifests
from cloudkeeper.frontend.registry.project import RegistryProject
from cloudkeeper.frontend.registry.referrers import Referrers
from cloudkeeper.frontend.registry.sboms import SBOMs
from cloudkeeper.frontend.registry.signature_check import SignatureCheck
from cloudkeeper.frontend.registry.tags import TagHistory
from cloudkeeper.frontend.settings import FrontendSettings
from cloudkeeper.frontend.source_settings import RegistrySettings
from cloudkeeper.frontend.sources import OfferSource, SignedListSource

REGISTRY_LISTS = "registry-lists.json"
"""The file of `accepted_lists`, in the state directory."""


def build(
    configured: FrontendSettings,
    client: Downloader,
    trust: CADirectory,
    *,
    state: Path,
    is_read_only: bool = False,
) -> list[OfferSource]:
    """Return the sources in the order of the configuration; ``state`` is their directory.

    With ``is_read_only`` they write nothing into it while they read: a dry run.

    Raises:
        LocalFailure: the memory of an earlier run cannot be read.

    """
    memory = Memory(state / "lists.json")
    history = TagHistory(state / "tags.json")
    cache = ListCache(state / "lists", imagelist.MAX_BYTES)
    lists = [SignedListSource(each, client, trust, memory, cache) for each in configured.lists]
    projects = [
        _project(each, client, history, _Memory(state, is_read_only))
        for each in configured.registries
    ]
    return [*projects, *lists]


def configured_lists(configured: FrontendSettings, *, state: Path) -> ConfiguredLists:
    """Return what is known of the configured lists before any source is read.

    Raises:
        LocalFailure: the memory of an earlier run cannot be read.

    """
    known = ConfiguredLists(
        EndedPolicy(configured.ended_lists),
        Memory(state / "lists.json").all_lists() | accepted_lists.read(state / REGISTRY_LISTS),
        is_whole=configured.has_all_sources,
    )
    known.unknown += [str(problem) for problem in configured.list_problems]
    known.unread += known.unknown
    return known


@dataclass(frozen=True, slots=True)
class _Memory:
    """The state directory; see `KeptByDigest`."""

    state: Path
    is_read_only: bool

    def of(self, name: str) -> KeptByDigest:
        return KeptByDigest(self.state / name, self.is_read_only)


def _project(
    configured: RegistrySettings, client: Downloader, history: TagHistory, memory: _Memory
) -> RegistryProject:
    registry = RegistryClient(client, Login(client, configured.host, configured.account))
    listing = HarborListing if configured.has_harbor else DistributionListing
    manifests = Manifests(registry, memory.of("manifests"))
    referrers = Referrers(registry)
    signatures = SignatureCheck(
        registry, manifests, referrers, memory.of("signatures"), configured.signing_keys
    )
    return RegistryProject(
        configured.project,
        configured.vos,
        registry,
        listing(registry, configured.project, configured.tags, configured.repositories),
        manifests,
        history,
        SBOMs(referrers, memory.of("sboms")),
        signatures if configured.signing_keys else None,
        configured.properties,
        configured.selection,
    )
