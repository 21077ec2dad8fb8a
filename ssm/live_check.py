"""What a run of the sender needs, tried without a message: ``--check-live``.

    C40   the spool: elements that cannot be sent, stale locks, dead letters
    C41   each broker: its certificate, the login, and the topic of AMS
    C43   a signature with the own certificate, verified as a receiver does

The age of the oldest message is judged on the host, which knows how often the sender runs.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import clock, files
from appliance.core.config import document, ini
from appliance.core.config.settings import Settings
from appliance.core.run import place
from appliance.core.run.errors import AccessDenied, ApplianceError, LocalFailure
from appliance.core.run.finding import Finding
from appliance.core.spool import Spool
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.errors import NoAnchor, Untrusted
from ssm import envelope
from ssm.sending.dead_letters import DeadLetters
from ssm.sending.directory_spool import DirectorySpool
from ssm.sending.packer import check_signature, load_packer
from ssm.settings import Broker, SenderSettings
from ssm.transport import brokers
from ssm.transport.ams_client import NoSuchTopic, TopicDenied

_TEXT = b"APEL-cloud-message: v0.4\n"
"""Signed and verified, never sent."""
_STALE = timedelta(minutes=10)
"""The age at which dirq's ``purge`` breaks a lock; senders renew theirs more often."""
_AT_ONCE = 8
"""Brokers that are tried at the same time."""
_CERTIFICATE = ("certificates", "certificate")


@dataclass(frozen=True, slots=True)
class _Checked:
    """A configuration of the sender."""

    path: Path
    settings: SenderSettings

    def line(self, section: str, option: str) -> int:
        """Return the line of an option; 0 if the default holds."""
        entry = Settings(document.read([self.path], ini.parse)).where(section, option)
        return entry.line if entry else 0

    def finding(self, section: str, option: str, text: str, row: str, *, tried: str) -> Finding:
        """Return a finding in the line of an option."""
        line = self.line(section, option)
        return Finding(str(self.path), line, f"[{section}] {option}", text, row, tried=tried)


def findings(found: Sequence[tuple[Path, SenderSettings]]) -> Iterator[Finding]:
    """Yield the faults of all configurations, those of this host first."""
    checked = [_Checked(path, settings) for path, settings in found]
    for one in checked:
        yield from of_spool(one.settings)
        yield from _of_dead_letters(one)
        yield from _of_signature(one.settings)
    # All at once: several that hang take the time of one.
    each = [(one, broker) for one in checked for broker in one.settings.link.brokers]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        made = list(pool.map(_of_broker, each))
    for one in checked:
        of_one = [it for (other, _), it in zip(each, made, strict=True) if other is one]
        is_error = all(of_one)  # brokers of one configuration serve the same queue
        yield from (replace(it, is_error=is_error) for it in of_one if it is not None)


# ------------------------------------------------------------------------------------------- spools


def of_spool(settings: SenderSettings) -> Iterator[Finding]:
    """Yield findings about elements that this account cannot send, and locks (C40.a, C40.e)."""
    path, is_dirq = settings.path, settings.kept.is_dirq
    spool = Spool(path) if is_dirq else DirectorySpool(path)
    at, closed = clock.now(), dict[Path, LocalFailure]()
    try:
        for directory in (path.parent, path):
            _note_closed(directory, closed)
        for name in spool.names():
            _note_closed((path / name).parent, closed)
            if is_dirq and (since := spool.locked_since(name)) is not None:
                yield from _of_lock(path / name, since, at)
    except LocalFailure as error:
        closed[Path(error.subject)] = error
    for subject, failure in (spool.skipped | closed).items():
        text = f"{failure.cause}; {failure.remedy}"
        yield Finding(str(subject), 0, "", text, "C40.a", tried=f"reading {path}")


def _note_closed(directory: Path, closed: dict[Path, LocalFailure]) -> None:
    """Note a directory in which this account can lock and remove nothing."""
    is_open = os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
    if directory.is_dir() and not is_open:
        refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
        closed[directory] = files.describe_unusable(directory, refused)


def _of_lock(element: Path, since: float, at: datetime) -> Iterator[Finding]:
    age = timedelta(seconds=at.timestamp() - since)
    if age <= _STALE:
        return
    minutes = round(age.total_seconds() / 60)
    lock = f"{element}.lck"
    text = (
        f"a sender set this lock {minutes} minutes ago and has not renewed it, so it has ended; the"
        f" next complete run of ssmsend removes the lock, or rm {lock}"
    )
    yield Finding(lock, 0, "", text, "C40.e", is_error=False, tried="its time")


def _of_dead_letters(checked: _Checked) -> Iterator[Finding]:
    """Yield a finding if messages were put aside, with the reason of the newest (C40.d)."""
    queue = DeadLetters(checked.settings.dead_letters)
    try:
        letters = queue.letters()
    except OSError as error:
        failure = LocalFailure.from_os(error)
        text = f"{failure.cause}; {failure.remedy}".rstrip("; ")
        yield Finding(failure.subject, 0, "", text, "C40.a", tried=f"reading {queue.path}")
        return
    if letters:
        newest = letters[-1]
        text = (
            f"{len(letters)} messages could not be sent, the newest, {newest.message_id}, because:"
            f" {newest.reason}; list them with {place.command('ssmsend', 'ssmctl', 'failed')}, and"
            f" put each back with {place.command('ssmsend', 'ssmctl', 'requeue', 'ID')}"
        )
        tried = f"reading {queue.path}"
        yield Finding(str(queue.path), 0, "", text, "C40.d", is_error=False, tried=tried)


# ---------------------------------------------------------------------------------------- signature


def _of_signature(settings: SenderSettings) -> Iterator[Finding]:
    """Yield a finding if a receiver with the same authorities would refuse our messages (C43.a)."""
    packer = load_packer(settings)
    tried = "signing a text and verifying it"
    try:
        signed = envelope.sign(_TEXT, identity=packer.identity)
        check_signature(signed, _TEXT, identity=packer.identity, trust=packer.trust)
    except Untrusted as error:
        # The host reports a missing authority, too: one fault has one id.
        row = "C10.f" if isinstance(error.__cause__, NoAnchor) else "C43.a"
        text = f"{error.cause}; {error.remedy}"
        yield Finding(error.subject, 0, "", text, row, tried=tried)


# ------------------------------------------------------------------------------------------ brokers


def _of_broker(each: tuple[_Checked, Broker]) -> Finding | None:
    """Return the fault of a broker or of the login there; None if a run could send."""
    checked, broker = each
    link = checked.settings.link
    crls = CRLPolicy(checked.settings.crls)
    try:
        brokers.rehearse(broker, link, trust=CADirectory(link.capath, crls=crls))
    except ApplianceError as error:
        what = f"login at {broker}"
        if link.ams is not None:
            what += f", and publishing nothing to {link.destination}"
        return _of_failure(checked, error, tried=what)
    return None


def _of_failure(checked: _Checked, error: ApplianceError, *, tried: str) -> Finding:
    text, cause = str(error), error.__cause__
    section, option, row = "broker", "host", "C06.a"
    match error:
        case NoSuchTopic():
            is_project = "project" in error.cause.lower()
            section, option = "messaging", "ams_project" if is_project else "destination"
            row = "C41.c"
        case TopicDenied():
            section, option, row = "messaging", "destination", "C41.b"
        case LocalFailure():
            row = "C10"
        case AccessDenied():
            ams = checked.settings.link.ams
            has_token = ams is not None and ams.token
            section, option = ("messaging", "token") if has_token else _CERTIFICATE
            row = "C41.b"
        case _ if isinstance(cause, ssl.SSLCertVerificationError):
            row = "C41.a"
        case _ if isinstance(cause, TimeoutError):
            row = "C06.b"
    return checked.finding(section, option, text, row, tried=tried)
