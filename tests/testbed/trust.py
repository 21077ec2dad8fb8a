"""The two authorities of an instance: one for the cloud's endpoints, one for the grid's hosts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.core.run import lock
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential, KeyKind

CLOUD_DN = "/C=ES/O=Example Cloud/CN=Example Cloud Authority"
DOMAIN = "example.org"
_PATIENCE = timedelta(minutes=10)
_ONE_THREAD = threading.Lock()
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Trust:
    """Authorities and credentials in one directory, each made when it is first asked for."""

    directory: Path

    @property
    def cloud(self) -> Authority:
        """The private CA that signs the cloud's endpoints."""
        return self._authority("cloud", subject=CLOUD_DN, key="ec")

    @property
    def grid(self) -> Authority:
        """The IGTF-style CA that signs the broker and its clients."""
        return self._authority("grid", subject=AUTHORITY_DN, key="rsa")

    @property
    def ca_directory(self) -> Path:
        """Trust anchors of the grid, as a site installs them."""
        return self.directory / "certificates"

    def publish(self) -> None:
        """Write the trust anchors with a fresh CRL."""
        self.grid.publish(self.ca_directory)

    def endpoints(self) -> Credential:
        """Return the certificate that all endpoints of the cloud share."""
        return self._credential(
            self.cloud, "localhost", hosts=_LOOPBACK, key="ec", prefix="/C=ES/O=Example Cloud"
        )

    def host(self, name: str) -> Credential:
        """Return the grid certificate of ``NAME.example.org``, also for ``localhost``."""
        full = f"{name}.{DOMAIN}"
        return self._credential(self.grid, full, hosts=(full, *_LOOPBACK))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Exclude other threads, and other processes; the kernel's lock knows processes only."""
        with _ONE_THREAD, lock.hold(self.directory / "lock", wait=_PATIENCE):
            yield

    def _authority(self, name: str, *, subject: str, key: KeyKind) -> Authority:
        directory = self.directory / name
        if not (directory / "ca.key").exists():
            with self._alone():
                if not (directory / "ca.key").exists():
                    shutil.rmtree(directory, ignore_errors=True)  # one that was never finished
                    return Authority.create(directory, subject=subject, key=key)
        return Authority.open(directory)

    def _credential(
        self,
        authority: Authority,
        name: str,
        *,
        hosts: tuple[str, ...],
        key: KeyKind = "rsa",
        prefix: str = HOST_DN,
    ) -> Credential:
        if (made := authority.find(name)) is None:
            with self._alone():
                if (made := authority.find(name)) is None:
                    return authority.issue(name, hosts=hosts, key=key, days=3650, prefix=prefix)
        return made
