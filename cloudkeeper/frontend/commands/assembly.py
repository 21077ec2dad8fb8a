"""The parts of a run, built from its settings; importing this module loads requests."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from appliance.core.download.downloader import PROMPT, Downloader
from appliance.core.run.errors import ConfigurationError
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from cloudkeeper.frontend import build_sources, direct_mode
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.frontend.backend_client import BackendClient
from cloudkeeper.frontend.bandwidth import Bandwidth
from cloudkeeper.frontend.comparison import Comparison
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.frontend.plan import AcceptedFormats
from cloudkeeper.frontend.reading import OfferSources
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.registry.project import RegistryProject
from cloudkeeper.frontend.remote_images import RemoteImages
from cloudkeeper.frontend.selection import WHOLE, RunFilter
from cloudkeeper.frontend.settings import DIRECT, FrontendSettings
from cloudkeeper.frontend.sources import OfferSource, SignedListSource
from cloudkeeper.frontend.sync import Synchronisation
from cloudkeeper.frontend.sync_report import SyncReport
from cloudkeeper.frontend.transfer import Workshop


def report(configured: FrontendSettings) -> SyncReport:
    """Return an empty report, which has the sources that are configured wrongly as failures.

    Raises:
        ConfigurationError: there is no source.

    """
    # Without any source nothing can be done, so this is an error and not a partial run.
    number = len(configured.lists) + len(configured.registries)
    if not number:
        raise ConfigurationError(configured.list_problems)
    made = SyncReport(lists_left=number + len(configured.list_problems))
    for problem in configured.list_problems:
        made.fail(str(problem))
    return made


def backend(configured: FrontendSettings) -> BackendClient:
    """Return a client of the backend: of one that runs, or of one in this process.

    Raises:
        ConfigurationError: the one in this process is configured wrongly.
        LocalFailure: its state, or a certificate for the other one, cannot be read.

    """
    if configured.endpoint == DIRECT:
        return BackendClient(direct_mode.backend(configured).connection())
    from cloudkeeper.frontend import grpc_connection  # noqa: PLC0415  loads gRPC

    files = configured.certificates
    encryption = grpc_connection.Encryption(*files) if files else None
    return grpc_connection.client(configured.endpoint, encryption=encryption)


def remote_images(
    configured: FrontendSettings,
) -> contextlib.AbstractContextManager[RemoteImages | None]:
    """Return the server of the remote mode, or none.

    Raises:
        LocalFailure: it cannot use its address.

    """
    place = configured.remote
    return RemoteImages(place) if place else contextlib.nullcontext()


def sources(
    configured: FrontendSettings,
    *,
    state: Path,
    is_read_only: bool = True,
    is_prompt: bool = False,
) -> list[OfferSource]:
    """Return the configured sources, which write nothing while they read, unless they may.

    Those of a check, which ``is_prompt``, try each request once, with a short wait.

    Raises:
        LocalFailure: the CA directory, or the memory of an earlier run, cannot be read.

    """
    trust = CADirectory(configured.ca_dir, crls=CRLPolicy(configured.crl_policy))
    client = Downloader(trust, attempts=1, most=PROMPT) if is_prompt else Downloader(trust)
    return build_sources.build(configured, client, trust, state=state, is_read_only=is_read_only)


def signed_list(address: Address, configured: FrontendSettings, *, state: Path) -> SignedListSource:
    """Return the list at an address, whether or not it is configured."""
    found = sources(replace(configured, lists=(address,), registries=()), state=state)
    (one,) = found
    assert isinstance(one, SignedListSource)  # noqa: S101
    return one


def projects(configured: FrontendSettings, *, state: Path) -> list[RegistryProject]:
    """Return the configured projects of registries."""
    found = sources(configured, state=state)
    return [each for each in found if isinstance(each, RegistryProject)]


def synchronisation(
    configured: FrontendSettings,
    backend: BackendClient,
    *,
    state: Path,
    allowed: int,
    reconverts: bool = False,
    is_dry: bool = False,
    chosen: RunFilter = WHOLE,
    remote: RemoteImages | None = None,
) -> Synchronisation:
    """Return a run; a dry one writes nothing.

    Raises:
        LocalFailure: the CA directory, or the memory of an earlier run, cannot be read.

    """
    qemu = QemuImg(configured.qemu_img, configured.patience)
    refused = RefusedImages(state / "refused.json", configured.formats)
    workshop = Workshop(
        configured.image_dir,
        configured.formats,
        qemu,
        refused,
        quota=configured.quota,
        bandwidth=Bandwidth(configured.bandwidth),
    )
    made = sources(configured, state=state, is_read_only=is_dry)
    lists = build_sources.configured_lists(configured, state=state)
    log, accepted = state / "accepted.json", state / build_sources.REGISTRY_LISTS
    found = OfferSources(made, not is_dry, lists, log, accepted, chosen)
    formats = AcceptedFormats(frozenset(configured.formats), reconverts=reconverts)
    compared = Comparison(found, backend, allowed, formats, chosen)
    return Synchronisation(
        compared,
        workshop,
        is_dry=is_dry,
        parallel=configured.parallel,
        per_host=configured.per_host,
        remote=remote,
    )
