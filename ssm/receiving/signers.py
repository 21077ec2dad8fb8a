"""The signers whose messages are accepted, and those whose messages are dropped unseen.

Both lists are files of SSM, ``dns`` and ``banned-dns``, with one DN a line.
"""

from __future__ import annotations

import logging
from pathlib import Path

from appliance.core.run.errors import ConfigurationError, Problem

logger = logging.getLogger("ssm.ssm2")

_Stamp = tuple[int, int, int] | None


class AcceptedSigners:
    """The DNs in a file, one a line in OpenSSL's slash form, without those in ``banned``.

    The file ``banned`` may be missing. Blank lines and ``#`` comments are skipped; any other line
    that is not a DN gives a warning. DNs are compared byte by byte.

    Raises:
        ConfigurationError: the file cannot be read, or holds no DN.

    """

    def __init__(self, path: Path, *, banned: Path) -> None:
        self._path, self._banned_path = path, banned
        self._stamps = (_stamp(path), _stamp(banned))
        self._accepted, self._banned = _read(path), _read(banned, may_be_missing=True)
        if not self._accepted:
            raise ConfigurationError(
                [Problem(path, 0, "", "has no DN; list the senders' DNs, one a line")]
            )

    def accepts(self, name: str) -> bool:
        """Check whether messages of this signer are stored."""
        return name in self._accepted

    def bans(self, name: str) -> bool:
        """Check whether messages of this signer are dropped."""
        return name in self._banned

    def refresh(self, *, force: bool = False) -> None:
        """Read the files again if one has changed; keep the lists in use if that fails."""
        if not force and self._stamps == (_stamp(self._path), _stamp(self._banned_path)):
            return
        try:
            fresh = AcceptedSigners(self._path, banned=self._banned_path)
        except ConfigurationError as error:
            logger.warning("%s; the lists read before stay in use", error)
            self._stamps = (_stamp(self._path), _stamp(self._banned_path))
            return
        self._stamps, self._accepted, self._banned = fresh._stamps, fresh._accepted, fresh._banned
        logger.info("Read %d accepted and %d banned names.", len(self._accepted), len(self._banned))


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _read(path: Path, *, may_be_missing: bool = False) -> frozenset[str]:
    try:
        # With a byte order mark of an editor before it, the first banned DN would be missed.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if may_be_missing:
            return frozenset()
        problem = Problem(path, 0, "", "does not exist; list the senders' DNs in it, one a line")
        raise ConfigurationError([problem]) from None
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError([Problem(path, 0, "", f"cannot be read: {cause}")]) from None
    names = set()
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line.startswith("/"):
            names.add(line)
        elif line and not line.startswith("#"):
            logger.warning(
                "%s:%d: DN in incorrect format: %s; it must begin with /", path, number, line[:80]
            )
    return frozenset(names)
