"""A bundle in a registry: an artefact of one layer, named by the digest of its manifest.

    oci://HOST/NAME@sha256:… ── manifest of that digest ── layer of the digest that it names ── tar

The tar stays on disk until it is installed, so a look with ``--check`` and the upgrade after it
transfer it once, and a run that was cut or killed is resumed. The digests show that nothing was
altered on the way; who made the bundle is what its signature shows, as that of any bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from appliance.admin import web_reader
from appliance.admin.upgrade import kept
from appliance.core import files, hosts, proxy
from appliance.core.download.connections import UntrustedServer
from appliance.core.download.downloader import Downloader, Timeouts
from appliance.core.download.pace import amount
from appliance.core.download.partial import PartialData
from appliance.core.download.resume import CannotResume
from appliance.core.registry import account, names
from appliance.core.registry.account import RegistryAccount
from appliance.core.registry.client import NOT_FOUND, RegistryClient
from appliance.core.registry.login import Login
from appliance.core.registry.names import Digest
from appliance.core.run.errors import ApplianceError, LocalFailure, Unavailable, UsageError
from appliance.core.run.layout import Layout
from appliance.core.trust.errors import Malformed, Tampered

SCHEME = "oci://"
FORM = "oci://HOST/NAME@sha256:DIGEST"
LAYER = "application/vnd.egi.fedcloud.bundle.v1+tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ACCOUNTS = "/etc/fedcloud/registry.auth"
_FOLDER = f"{kept.FOLDER}/bundles"
_LARGEST = 2**34
"""Bytes of a bundle; one with all images has a tenth of that."""
_TIMEOUTS = Timeouts(total=timedelta(hours=6))
_WRITE = f"write {FORM}, as the publisher announces it"
_AGAIN = "run the same command again; nothing was changed"
_WRONG = "compare the reference with the publisher's announcement; nothing was changed"
_REFERENCE = re.compile(r"oci://([^/@]+)/([^@]+?)(?::([\w.-]+))?(?:@(.*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class BundleReference:
    """The name of a bundle in a registry: a ``digest``, or a ``tag`` that may be moved."""

    host: str
    repository: str
    tag: str
    digest: Digest | None

    def __str__(self) -> str:
        """Return the reference as an administrator writes it."""
        end = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{SCHEME}{self.host}/{self.repository}{end}"


@dataclass(frozen=True, slots=True)
class _Layer:
    digest: Digest
    size: int


def read_reference(text: str) -> BundleReference:
    """Return the reference that a text is.

    Raises:
        UsageError: It is none.

    """
    found = _REFERENCE.fullmatch(text)
    if found is None or hosts.place_fault(found[1]) or not names.is_repository(found[2]):
        raise UsageError(text, "is not the reference of a bundle", _WRITE)
    host, repository, tag, digest = found.groups()
    if digest is None:
        return BundleReference(host, repository, tag or "latest", None)
    try:
        return BundleReference(host, repository, tag or "", names.digest(digest, subject=text))
    except Malformed as error:
        raise UsageError(text, error.cause, _WRITE) from None


def fetch(reference: BundleReference, layout: Layout, proxies: Mapping[str, str]) -> Path:
    """Return the tar of a bundle, which is there completely and has its digest.

    Raises:
        UsageError: The reference has no digest; the remedy is the one that has it.
        Unavailable: It cannot be fetched, or there is no space for it.
        Untrusted: The server, or what it sends, is not what it should be.
        Malformed: The reference does not name a bundle.

    """
    with _worded(reference), proxy.environment(proxies):
        client = _client(reference, layout)
        content = _manifest(client, reference)
        layer = _layer(content, reference)
        if reference.digest is None:
            whole = BundleReference(
                reference.host, reference.repository, "", names.digest_of(content)
            )
            cause = "names a tag, which its publisher can move"
            remedy = f"compare the digest with the announcement, then use --from {whole}"
            raise UsageError(reference, cause, remedy)
        return _Download(client, reference, layer, layout).run()


def forget(layout: Layout) -> None:
    """Remove the bundles that were fetched."""
    shutil.rmtree(layout.path(_FOLDER), ignore_errors=True)


@contextlib.contextmanager
def named(reference: BundleReference, path: Path) -> Iterator[None]:
    """Name the reference instead of the tar in what the block finds wrong with the bundle.

    A tar that its digest vouches for is not better when it is fetched again.
    """
    try:
        yield
    except ApplianceError as error:
        if error.subject == str(path):
            error.subject = str(reference)
            error.remedy = error.remedy.replace("get the bundle again", "ask its publisher")
        raise


@contextlib.contextmanager
def _worded(reference: BundleReference) -> Iterator[None]:
    """Give failures of the download a remedy for this command."""
    try:
        yield
    except UntrustedServer as error:
        error.remedy = "name a file that holds its authority as FEDCLOUD_CA_BUNDLE"
        raise
    except (Unavailable, Malformed, Tampered) as error:
        if not error.remedy or error.remedy.startswith("the next run"):
            error.remedy = _AGAIN
        raise
    except OSError as error:
        where = error.filename or reference
        remedy = "free space there, and run the same command again; nothing was changed"
        raise LocalFailure.from_os(error, subject=where, remedy=remedy) from error


def _accounts(path: Path) -> Mapping[str, RegistryAccount]:
    if not path.exists():
        return {}
    if path.stat().st_mode & 0o077:
        raise UsageError(path, "others can read it", f"chmod 600 {files.shell_word(path)}")
    return account.read(path)


def _client(reference: BundleReference, layout: Layout) -> RegistryClient:
    known = _accounts(layout.path(ACCOUNTS))
    authorities = web_reader.of_site(layout, {}, timeout=_TIMEOUTS.read).authorities
    trust = ssl.create_default_context(cafile=str(authorities))
    downloader = Downloader(trust)
    login = Login(downloader, reference.host, known.get(reference.host), accounts=ACCOUNTS)
    return RegistryClient(downloader, login)


def _manifest(client: RegistryClient, reference: BundleReference) -> bytes:
    """Return the manifest, which has the digest of the reference if that has one."""
    name = reference.digest or reference.tag
    path = f"/v2/{reference.repository}/manifests/{name}"
    answer = client.get(path, scope=reference.repository, headers={"Accept": MANIFEST})
    if answer.status == NOT_FOUND:
        error = client.login.missing(reference.repository)
        cause = error.cause.replace("project or repository", "bundle")
        raise Unavailable(reference, cause, _WRONG)
    if reference.digest and (found := names.digest_of(answer.content)) != reference.digest:
        raise Tampered(reference, f"the manifest that came has the digest {found}", _AGAIN)
    return answer.content


def _layer(content: bytes, reference: BundleReference) -> _Layer:
    """Return the only layer of a manifest.

    Raises:
        Malformed: It is not the manifest of a bundle.

    """
    try:
        tree: Any = json.loads(content)
        found = [(one["mediaType"], one["digest"], one["size"]) for one in tree["layers"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Malformed(reference, "is not a bundle: its manifest has no layers", _WRONG) from None
    ((kind, digest, size), *more) = found or [("none", "", 0)]
    if more or kind != LAYER:
        words = f"{len(found)} layers" if more else f"a layer of the type {str(kind)[:80]!r}"
        raise Malformed(reference, f"is not a bundle: it has {words}, not one of {LAYER}", _WRONG)
    if not isinstance(size, int) or not 0 < size <= _LARGEST:
        cause = f"its layer has {str(size)[:20]} bytes; at most {_LARGEST >> 30} GiB are accepted"
        raise Malformed(reference, cause, _WRONG)
    return _Layer(names.digest(digest, subject=str(reference)), size)


class _Download:
    """The way of a layer to the disk; ``.part`` holds what has come of it."""

    def __init__(
        self, client: RegistryClient, reference: BundleReference, layer: _Layer, layout: Layout
    ) -> None:
        self._client, self._reference, self._layer = client, reference, layer
        folder = layout.path(_FOLDER)
        files.make_directory(folder.parent, mode=0o700)
        files.make_directory(folder, mode=0o700)
        self._target = folder / f"{layer.digest.replace(':', '-')}.tar"
        self._part = self._target.with_suffix(".part")

    def run(self) -> Path:
        """Return the file, of which only what is missing is fetched."""
        for other in self._target.parent.iterdir():
            if other not in (self._target, self._part):
                other.unlink()
        if self._target.exists():
            if _hashed(self._target)[0] == self._layer.digest:
                return self._target
            self._target.unlink()
        try:
            self._fetch()
        except CannotResume:
            self._part.unlink(missing_ok=True)
            self._fetch()
        return self._target

    def _fetch(self) -> None:
        with open(
            os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b"
        ) as file:
            hashed, received = _begun(file, self._layer.size)
            self._check_space(received)
            words = f", {amount(received)} of it are here" if received else ""
            size = amount(self._layer.size)
            print(f"bundle of {size} from {self._client.host}{words}", flush=True)
            for block in self._blocks(received):
                file.write(block)
                hashed.update(block)
                received += len(block)
            file.flush()
            os.fsync(file.fileno())
        if (found := f"sha256:{hashed.hexdigest()}") != self._layer.digest:
            self._part.unlink()
            raise Tampered(self._reference, f"the layer that came has the digest {found}", _AGAIN)
        self._part.rename(self._target)
        files.sync_directory(self._target.parent)

    def _blocks(self, received: int) -> Iterator[bytes]:
        size, digest = self._layer.size, self._layer.digest
        if received == size:
            return
        partial = PartialData(number=received, total=size) if received else None
        with self._client.layer(
            self._reference.repository, digest, timeouts=_TIMEOUTS, partial=partial
        ) as (_, blocks):
            for block in blocks:
                received += len(block)
                if received > size:
                    cause = f"the layer that came has more than {size} bytes"
                    raise Tampered(self._reference, cause, _AGAIN)
                yield block
        if received < size:
            cause = f"the layer that came has {received} bytes, and should have {size}"
            raise Tampered(self._reference, cause, _AGAIN)

    def _check_space(self, received: int) -> None:
        free, needed = shutil.disk_usage(self._part).free, self._layer.size - received
        if free < needed:
            cause = f"the bundle needs {amount(needed)}, {amount(free)} are free"
            raise Unavailable(self._part.parent, cause, "free space there; nothing was changed")


def _begun(file: BinaryIO, size: int) -> tuple[hashlib._Hash, int]:
    """Return hash and size of what an earlier run has fetched; what is too long is dropped."""
    hashed, received = hashlib.sha256(), 0
    while block := file.read(2**20):
        hashed.update(block)
        received += len(block)
    if received > size:
        file.seek(0)
        file.truncate()
        return hashlib.sha256(), 0
    return hashed, received


def _hashed(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        hashed, size = _begun(file, _LARGEST)
    return f"sha256:{hashed.hexdigest()}", size
