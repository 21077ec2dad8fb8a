"""The directory of a shadow: our accounting beside a cASO that still runs, compared afterwards.

    DIRECTORY/shadow.json    what was there at the beginning; written last, so it marks a whole one
    DIRECTORY/state/         our checkpoints, at first copies of cASO's, ledger and quarantine
    DIRECTORY/spool/KIND/    our messages; no sender reads them
    DIRECTORY/unlaunched.json  servers that were never launched, and when Nova was asked for them
    DIRECTORY/cASO/          cASO's messages, kept, because SSM removes those that it has sent

A kept message is a hard link, which costs no space until SSM removes the other name. Where the
kernel makes none (another file system, a container's mount, a foreign owner's file), it is a copy.
Nothing of the site is changed: neither its spool nor its checkpoints nor its lock file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from appliance.core import clock, files, json_file
from appliance.core.run import lock, place
from appliance.core.run.errors import ApplianceError, Busy, LocalFailure
from appliance.core.spool import ElementName, Spool
from caso import quarantine
from caso.ledger.ledger import Ledger

_MAX_NOTE = 2**26
_LONGEST_CHECKPOINT = 2**12
_LONGEST_MESSAGE = 2**26
_MODE = 0o640  # messages name users
_NO_LINK = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
)
"""Errors of link(2) after which a copy may succeed."""
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class SiteFiles:
    """The files of a site that a shadow reads."""

    state: Path
    """Directory of cASO's checkpoints."""
    spool: Path
    lock: Path
    """cASO's lock file."""


@dataclass(slots=True)
class Kept:
    """The result of keeping messages."""

    linked: int = 0
    copied: int = 0
    vanished: list[ElementName] = field(default_factory=list)
    """Messages that SSM removed before they were kept."""
    failures: list[ApplianceError] = field(default_factory=list)


class Shadow:
    """The directory of one shadow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self.ledger = self.state / "ledger.sqlite"
        self.theirs = path / "cASO"
        self.lock = path / "shadow.lock"
        self._note = path / "shadow.json"
        self._unlaunched = path / "unlaunched.json"
        self._content: Mapping[str, Any] | None = None

    def spool(self, kind: str) -> Path:
        """Return the directory of our messages of a kind."""
        return self.path / "spool" / kind

    @property
    def has_begun(self) -> bool:
        """Check whether a run has begun the shadow."""
        return os.path.lexists(self._note)

    def begin(self, site: SiteFiles, *, wait: timedelta) -> None:
        """Copy cASO's checkpoints and note which messages it had spooled by then; once.

        Raises:
            Busy: cASO ran for longer than ``wait``: its checkpoints move before its messages come.
            LocalFailure: a file cannot be read or written.

        """
        found, present = _while_idle(site, deadline=time.monotonic() + wait.total_seconds())
        with _failing(self.state):
            files.make_directory(self.state)
            for name, content in found.items():
                files.write_atomic(self.state / name, content, mode=_MODE)
        note = {
            "begun": clock.now().isoformat(timespec="seconds"),
            "checkpoints": {name: text.decode("latin-1") for name, text in found.items()},
            "present": present,
        }
        json_file.write(self._note, note)

    def begun(self) -> datetime | None:
        """Return the latest checkpoint from which the shadow began; None if cASO had none.

        Raises:
            LocalFailure: there is no shadow, or its file is damaged.

        """
        return max(self._moments(), default=None)

    def _moments(self) -> list[datetime]:
        """Return the checkpoints from which the shadow began."""
        try:
            texts = list(self._read()["checkpoints"].values())
        except (AttributeError, KeyError) as error:
            raise self._damaged() from error
        moments: list[datetime] = []
        for text in texts:
            with contextlib.suppress(ValueError):  # a broken one, from which cASO does not go on
                moments.append(clock.parse(str(text).strip()))
        return moments

    def keep(self, spool: Path) -> Kept:
        """Keep the messages that cASO has spooled since the beginning and that are still there."""
        kept, site = Kept(), Spool(spool)
        try:
            before = set(self._read()["present"])
        except (KeyError, TypeError) as error:
            raise self._damaged() from error
        with _failing(self.theirs):
            files.make_directory(self.theirs)
        for name in site.names():
            if name not in before and not os.path.lexists(self.theirs / name):
                self._keep_one(spool, name, kept)
        kept.failures += site.skipped.values()
        return kept

    def _keep_one(self, spool: Path, name: ElementName, kept: Kept) -> None:
        target = self.theirs / name
        with _failing(target):
            files.make_directory(target.parent)
            try:
                os.link(spool / name, target, follow_symlinks=False)
                kept.linked += 1
            except FileExistsError:
                return
            except FileNotFoundError:
                kept.vanished.append(name)
                return
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._copy(spool / name, target, kept)
                return
            files.sync_directory(target.parent)

    def _copy(self, source: Path, target: Path, kept: Kept) -> None:
        try:
            content = files.read_regular(source, limit=_LONGEST_MESSAGE)
        except FileNotFoundError:
            kept.vanished.append(ElementName(f"{source.parent.name}/{source.name}"))
            return
        except OSError as error:
            kept.failures.append(files.describe_skipped(source, error))
            return
        files.write_atomic(target, content, mode=_MODE)
        kept.copied += 1

    def set_aside(self) -> frozenset[tuple[str, str]]:
        """Return server and month of our records in the quarantine."""
        found = quarantine.entries(self.state / "quarantine")
        return frozenset((one.key, one.month) for one in found if one.kind == "cloud")

    def resized(self) -> frozenset[str]:
        """Return the servers of which our runs have seen several numbers of cores."""
        if not self.ledger.exists():
            return frozenset()
        with Ledger(self.ledger, read_only=True) as ledger:
            return frozenset(one.key for one in ledger.sightings.of_kind("cores"))

    def unlaunched(self) -> tuple[datetime, set[str]]:
        """Return when Nova was asked for servers without a launch, and the ids of those.

        Before the first time this is the earliest checkpoint. A damaged file is made again.
        """
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            content = json_file.read(self._unlaunched, limit=_MAX_NOTE)
            return clock.parse(content["asked"]), set(map(str, content["servers"]))
        moments = self._moments()
        return min(moments, default=datetime(1970, 1, 1, tzinfo=UTC)), set()

    def note_unlaunched(self, asked: datetime, servers: Iterable[str]) -> None:
        """Keep the servers without a launch, and up to when Nova was asked for them."""
        json_file.write(self._unlaunched, {"asked": asked.isoformat(), "servers": sorted(servers)})

    def _read(self) -> Mapping[str, Any]:
        if self._content is None:
            try:
                self._content = json_file.read(self._note, limit=_MAX_NOTE)
            except FileNotFoundError:
                remedy = f"begin one with: {place.command('caso', 'caso', 'shadow')}"
                raise LocalFailure(self.path, "there is no shadow", remedy) from None
            except ValueError as error:
                raise self._damaged() from error
            except OSError as error:
                raise files.describe_unusable(self._note, error) from error
        if not isinstance(self._content, Mapping):
            raise self._damaged()
        return self._content

    def _damaged(self) -> LocalFailure:
        word = files.shell_word(self.path)
        return LocalFailure(self._note, "is damaged", f"begin a new shadow: rm -r {word}")


def _while_idle(site: SiteFiles, *, deadline: float) -> tuple[dict[str, bytes], list[ElementName]]:
    """Return checkpoint files and messages as they are while cASO does not run."""
    while True:
        running = lock.holder(site.lock)
        if not running:
            found, present = _checkpoints(site.state), list(Spool(site.spool).names())
            # It may have run in the meantime, and even have ended.
            if not lock.holder(site.lock) and found == _checkpoints(site.state):
                return found, present
        elif time.monotonic() > deadline:
            raise Busy(site.lock, f"cASO is {running}", "run this again when it has ended")
        time.sleep(_POLL_SECONDS)


def _checkpoints(directory: Path) -> dict[str, bytes]:
    """Return the content of cASO's checkpoint files, whatever it is: our run judges it.

    Raises:
        LocalFailure: one of them cannot be read. A shadow without it would account the whole
            history of a project.

    """
    try:
        names = sorted(name for name in os.listdir(directory) if _is_checkpoint(name))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise files.describe_unusable(directory, error) from error
    found: dict[str, bytes] = {}
    for name in names:
        try:
            found[name] = files.read_regular(
                directory / name, limit=_LONGEST_CHECKPOINT, follow=True
            )
        except OSError as error:
            raise files.describe_unusable(directory / name, error) from error
    return found


def _is_checkpoint(name: str) -> bool:
    return name == "lastrun" or name.startswith("lastrun.")


@contextlib.contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalFailure.from_os(error, subject=error.filename or path) from error
