"""Records that wait until a service has accepted them, for messengers that send over the network.

A spool takes records even while the network is down; a service does not. So a project's records are
written here, durably, before its checkpoint moves, and sent at the end of the run. Those of a
service that does not answer stay, and the next run sends them first. A service that is down for
days holds back no other messenger, and no project is extracted again.

    SPOOLDIR/waiting/MESSENGER/PROJECT.KIND        records that wait, one in each line
    SPOOLDIR/waiting/MESSENGER/PROJECT.KIND.new    records are being written

    step     effect                                        killed before it, the next run
    write    the records are in .new, fsynced              deletes .new and extracts again
    commit   .new, with the older records that still wait, sends them; the checkpoint did not move,
             replaces the file                             so it extracts the same again
    check    the checkpoint files are written              the same
    send     the service has accepted all records          sends them again
    clear    the file is removed                           sends them again

A service may therefore receive a record twice. A later record of the same thing and month replaces
an earlier one that still waits, so the files do not grow with the length of an outage.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from appliance.core import files
from appliance.core.run.errors import ApplianceError, LocalFailure, Unavailable
from caso.checkpoint import Checkpoints
from caso.kinds.kind import RecordKind, UsageRecord
from caso.messengers.messenger import Recovered

_UNCOMMITTED = ".new"
_DAMAGED = ".damaged"
_NAME = re.compile(r"[^/.]+\.[a-z]+(?:\.new|\.damaged)?")
_LONGEST_LINE = 2**20
_BLOCK = 2**16


@dataclass(frozen=True, slots=True)
class WaitingRecord:
    """A record that waits."""

    key: str
    """The thing and the month."""
    text: str
    """The record as JSON."""


class ServiceConnection(Protocol):
    """A way to a service, for the records of one run."""

    def send(self, records: Iterable[WaitingRecord]) -> None:
        """Send records, and return when the service has accepted all of them.

        Raises:
            ApplianceError: it has not.

        """

    def close(self) -> None:
        """Close the connection."""


class Service(Protocol):
    """A service that takes records over the network."""

    @property
    def name(self) -> str:
        """Return the messenger's name."""

    @property
    def kinds(self) -> tuple[RecordKind[Any], ...]:
        """Return the kinds that it takes."""

    def connect(self) -> ServiceConnection:
        """Return a connection; raises `ApplianceError` if there is none."""


class OpenService:
    """A service in a run."""

    def __init__(self, service: Service, checkpoints: Checkpoints) -> None:
        self.kinds = service.kinds
        self._service = service
        self._checkpoints = checkpoints
        self._directory = checkpoints.directory / "waiting" / service.name

    def begin(self, project_id: str, kind: RecordKind[Any]) -> WaitingOutbox:
        """Begin the records of a project and a kind."""
        files.make_directory(self._directory)
        path = self._directory / f"{project_id}.{kind.name}"
        return WaitingOutbox(path, kind, self._checkpoints)

    def recover(self) -> Recovered:
        """Delete what was not committed. `deliver` sends the rest at the end of the run."""
        for path in self._paths(_UNCOMMITTED):
            path.unlink(missing_ok=True)
        return Recovered()

    def pending(self) -> list[str]:
        """Return the projects of which records wait."""
        return list(dict.fromkeys(path.name.partition(".")[0] for path in self._paths()))

    def unusable(self) -> Sequence[ApplianceError]:
        """Return a failure for each file that is damaged, or cannot be one of records."""
        damaged = [_Damaged.of(path) for path in self._paths(_DAMAGED)]
        return [*self._listing().skipped.values(), *damaged]

    def deliver(self) -> list[ApplianceError]:
        """Send all records that wait; return what failed. Records that are not accepted stay."""
        failures: list[ApplianceError] = []
        if paths := self._paths():
            try:
                with contextlib.closing(self._service.connect()) as connection:
                    for path in paths:
                        self._send(path, connection)
            except (ApplianceError, OSError) as error:
                failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
                cause = f"{failure.cause}; the records wait in {self._directory}"
                failures.append(Unavailable(failure.subject, cause, failure.remedy))
        return [*failures, *self.unusable()]

    def _send(self, path: Path, connection: ServiceConnection) -> None:
        try:
            connection.send(read(path))
        except _Damaged:
            path.rename(path.with_name(path.name + _DAMAGED))
            return
        path.unlink()
        files.sync_directory(self._directory)

    def _paths(self, suffix: str = "") -> list[Path]:
        found = self._listing().paths
        if not suffix:
            return [path for path in found if path.suffix not in (_UNCOMMITTED, _DAMAGED)]
        return [path for path in found if path.suffix == suffix]

    def _listing(self) -> files.Listing:
        try:
            return files.listed(self._directory, _NAME.fullmatch)
        except FileNotFoundError:
            return files.Listing()


class _Damaged(LocalFailure):
    """A file of waiting records is damaged."""

    @classmethod
    def of(cls, path: Path) -> _Damaged:
        """Return the failure of a file that was set aside."""
        remedy = f"send its months again, then: rm {files.shell_word(path)}"
        return cls(path, "records that waited are damaged, and were not sent", remedy)


def read(path: Path) -> Iterator[WaitingRecord]:
    """Yield the records that wait in a file.

    Raises:
        LocalFailure: the file is damaged. Records before the damage have been yielded.

    """
    with files.open_regular(path) as stream:
        while line := stream.readline(_LONGEST_LINE):
            try:
                key, text = json.loads(line)
                yield WaitingRecord(str(key), str(text))
            except (ValueError, TypeError) as error:
                raise _Damaged.of(path) from error


class WaitingOutbox:
    """The records of a project and a kind until they wait durably."""

    messages = 0

    def __init__(self, path: Path, kind: RecordKind[Any], checkpoints: Checkpoints) -> None:
        self._path = path
        self._new = path.with_name(path.name + _UNCOMMITTED)
        self._kind = kind
        self._checkpoints = checkpoints
        self._keys: set[str] = set()
        self._lines: list[bytes] = []
        self._size = 0
        self._new.unlink(missing_ok=True)

    def add(self, record: UsageRecord) -> None:
        """Add a record."""
        key = f"{record.key} {record.measured:%Y-%m}"
        self._keys.add(key)
        self._append(key, json.dumps(dict(self._kind.fields(record))))

    def _append(self, key: str, text: str) -> None:
        line = json.dumps([key, text]).encode() + b"\n"
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _BLOCK:
            self._flush()

    def commit(self, checkpoints: Mapping[str, str]) -> None:
        """Make the records wait durably, then write the checkpoint files."""
        self._flush()
        if self._keys:
            self._keep_older()
            descriptor = os.open(self._new, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._new.rename(self._path)
            files.sync_directory(self._path.parent)
        self._checkpoints.write(checkpoints)

    def discard(self) -> None:
        """Drop records that are not committed."""
        self._new.unlink(missing_ok=True)

    def _keep_older(self) -> None:
        """Add the older records that wait, unless a newer one replaces them."""
        try:
            for old in read(self._path):
                if old.key not in self._keys:
                    self._append(old.key, old.text)
        except FileNotFoundError:
            return
        except _Damaged:
            self._path.rename(self._path.with_name(self._path.name + _DAMAGED))
        self._flush()

    def _flush(self) -> None:
        if self._lines:
            with files.named(self._new):
                descriptor = files.open_append(self._new)
                with os.fdopen(descriptor, "ab") as stream:
                    stream.write(b"".join(self._lines))
        self._lines, self._size = [], 0
