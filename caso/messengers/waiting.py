"""Records that wait until a service has accepted them, for messengers that send over the network.

A spool takes records even while the network is down; a service does not. So a project's records are
written here, durably, and count as delivered. They are sent at the end of the run. Those of a
service that does not answer stay, and the next run sends them. A service that is down for days
holds back no other messenger, and no project is extracted again for it.

    SPOOLDIR/waiting/MESSENGER/PROJECT.KIND        records that wait, one in each line
    SPOOLDIR/waiting/MESSENGER/PROJECT.KIND.new    records are being written

    step     effect                                        killed before it, the next run
    seal     the records are in .new, fsynced, with older  deletes .new and extracts again
             ones that still wait
    commit   .new replaces the file                        the same
    finish   the checkpoint files are written              sends the records; goes on from an older
                                                           checkpoint file, if there is one
    send     the service has accepted all records          sends them again
    clear    the file is removed                           sends them again

A service may therefore receive a record twice. If it fails before it has accepted all records of a
file, those that it has acknowledged are removed. A later record of the same thing and month
replaces an earlier one that still waits, so the files do not grow with the length of an outage.
"""

from __future__ import annotations

import contextlib
import itertools
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
from caso.messengers.messenger import Recovered, Written

_UNCOMMITTED = ".new"
_DAMAGED = ".damaged"
_NAME = re.compile(r"[^/.][^/]*\.[a-z]+(?:\.new|\.damaged)?")
_LONGEST_LINE = 2**20
_PAGE = 500
"""Records that are held until they are written."""


@dataclass(frozen=True, slots=True)
class WaitingRecord:
    """A record that waits."""

    key: str
    """The thing and the month."""
    text: str
    """The record as JSON."""


class ServiceConnection(Protocol):
    """A way to a service, for the records of one run."""

    @property
    def refused(self) -> Sequence[ApplianceError]:
        """Return a line for each record that was set aside, because the service refuses it."""

    @property
    def accepted(self) -> int:
        """Return how many records, from the first one on, the last `send` need not send again."""

    def send(self, records: Iterable[WaitingRecord]) -> None:
        """Send records, and return when the service has accepted all that it does not refuse.

        Raises:
            RecordsRefused: it refuses all of them, and no record was accepted before.
            ApplianceError: it has not accepted them.

        """

    def close(self) -> None:
        """Close the connection."""


class RecordService(Protocol):
    """A service that takes records over the network."""

    @property
    def name(self) -> str:
        """Return the messenger's name."""

    @property
    def kinds(self) -> tuple[RecordKind[Any], ...]:
        """Return the kinds that it takes."""

    def connect(self, quarantine: Path) -> ServiceConnection:
        """Return a connection, which sets records aside that are refused for good.

        Raises:
            ApplianceError: the service does not let us in.

        """


class RecordsRefused(Unavailable):
    """A service has refused all records of a file, and has accepted none of another."""


class OpenService:
    """A service in a run."""

    def __init__(self, service: RecordService, checkpoints: Checkpoints) -> None:
        self.name = service.name
        self.kinds = service.kinds
        self.spools: Mapping[str, Path] = {}
        self.max_size: int | None = None
        self._service = service
        self._checkpoints = checkpoints
        self._directory = checkpoints.directory / "waiting" / service.name

    def begin(self, project_id: str, kind: RecordKind[Any], written: Written) -> WaitingOutbox:
        """Begin the records of a project and a kind."""
        files.make_directory(self._directory)
        path = self._directory / f"{project_id}.{kind.name}"
        return WaitingOutbox(self.name, path, kind, self._checkpoints, written)

    def is_held(self, name: str) -> bool | None:
        """Check whether the records of a run that was killed wait here."""
        return not self._directory.joinpath(name.partition(" ")[2] + _UNCOMMITTED).exists()

    def recover(self) -> Recovered:
        """Delete what was not committed. `deliver` sends the rest at the end of the run."""
        for path in self._paths(_UNCOMMITTED):
            path.unlink(missing_ok=True)
        return Recovered()

    def pending(self) -> list[str]:
        """Return the projects of which records wait."""
        return list(dict.fromkeys(path.stem for path in self._paths()))

    def unusable(self) -> Sequence[ApplianceError]:
        """Return a failure for each file that is damaged, or cannot be one of records."""
        damaged = [_Damaged.of(path) for path in self._paths(_DAMAGED)]
        return [*self._listing().skipped.values(), *damaged]

    def deliver(self) -> Sequence[ApplianceError]:
        """Send all records that wait; return what failed. Records that are not accepted stay."""
        failures: list[ApplianceError] = []
        if paths := self._paths():
            quarantine = self._checkpoints.directory / "quarantine"
            try:
                with contextlib.closing(self._service.connect(quarantine)) as connection:
                    try:
                        self._send_all(paths, connection)
                    finally:
                        failures += connection.refused
            except (ApplianceError, OSError) as error:
                failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
                cause = f"{failure.cause}; the records wait in {self._directory}"
                failures.append(Unavailable(failure.subject, cause, failure.remedy))
        return [*failures, *self.unusable()]

    def _send_all(self, paths: Sequence[Path], connection: ServiceConnection) -> None:
        refused = []
        for path in paths:
            try:
                self._send(path, connection)
            except RecordsRefused:
                refused.append(path)
        # Only beside records that were accepted is it certain that these are to blame.
        for path in refused:
            self._send(path, connection)

    def _send(self, path: Path, connection: ServiceConnection) -> None:
        try:
            connection.send(read_waiting(path))
        except _Damaged:
            path.rename(path.with_name(path.name + _DAMAGED))
            return
        except ApplianceError:
            if connection.accepted:
                left = itertools.islice(read_waiting(path), connection.accepted, None)
                files.write_atomic(path, map(_encoded, left))
            raise
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


def read_waiting(path: Path) -> Iterator[WaitingRecord]:
    """Yield the records that wait in a file.

    Raises:
        LocalFailure: the file is damaged. Records before the damage have been yielded.

    """
    with files.open_regular(path) as stream:
        while line := stream.readline(_LONGEST_LINE):
            try:
                key, text = json.loads(line)
                record = WaitingRecord(str(key), str(text))
            except (ValueError, TypeError) as error:
                raise _Damaged.of(path) from error
            yield record


class WaitingOutbox:
    """The records of a project and a kind until they wait durably."""

    def __init__(
        self,
        messenger: str,
        path: Path,
        kind: RecordKind[Any],
        checkpoints: Checkpoints,
        written: Written,
    ) -> None:
        self.name = f"{messenger} {path.name}"
        self.messages = 0
        self._path = path
        self._new = path.with_name(path.name + _UNCOMMITTED)
        self._kind = kind
        self._checkpoints = checkpoints
        self._written = written
        self._keys: set[str] = set()
        self._page: list[UsageRecord] = []
        self._reached: Mapping[str, str] = {}
        # It exists until the commit: `OpenService.is_held` needs no other mark.
        files.write_new(self._new, b"")

    def add(self, record: UsageRecord) -> None:
        """Add a record."""
        self._page.append(record)
        if len(self._page) >= _PAGE:
            self._flush()

    def seal(self, checkpoints: Mapping[str, str]) -> None:
        """Make the records durable, with the older ones that still wait."""
        self._flush()
        self._reached = checkpoints
        # Older ones come first: of two records of a server, that of the later month is the later.
        with self._new.open("rb") as new:
            files.write_atomic(self._new, itertools.chain(self._older(), new))

    def commit(self) -> None:
        """Have the records wait."""
        if self._new.stat().st_size:
            self._new.rename(self._path)
        else:
            self._new.unlink()
        files.sync_directory(self._path.parent)

    def finish(self) -> None:
        """Write the checkpoint files."""
        self._checkpoints.write(self._reached)

    def discard(self) -> None:
        """Leave the records for the next run to delete.

        Without the file, a kill before the ledger withdraws them would look like a commit.
        """

    def _flush(self) -> None:
        page, self._page = self._page, []
        if page:
            self._append(self._line(record) for record in page)
            self._written(b"", page)

    def _line(self, record: UsageRecord) -> bytes:
        key = f"{record.key} {record.measured:%Y-%m}"
        self._keys.add(key)
        return _encoded(WaitingRecord(key, json.dumps(dict(self._kind.fields(record)))))

    def _older(self) -> Iterator[bytes]:
        """Yield the records that wait already, unless a newer one replaces them."""
        try:
            for one in read_waiting(self._path):
                if one.key not in self._keys:
                    yield _encoded(one)
        except FileNotFoundError:
            pass
        except _Damaged:
            self._path.rename(self._path.with_name(self._path.name + _DAMAGED))

    def _append(self, lines: Iterable[bytes]) -> None:
        with files.named(self._new), os.fdopen(files.open_append(self._new), "ab") as stream:
            stream.writelines(lines)


def _encoded(record: WaitingRecord) -> bytes:
    return json.dumps([record.key, record.text]).encode("ascii") + b"\n"
