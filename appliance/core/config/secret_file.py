"""A secret in a file of its own: the first line, in place of an option's text.

The option that names the file is ``OPTION_file``. What it holds instead is never quoted, because it
may be the secret itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import files
from appliance.core.run import log, place

if TYPE_CHECKING:
    from appliance.core.config.settings import Settings

SUFFIX = "_file"
_LONGEST = 1 << 16
"""Bytes of the file; an access token may have some kilobytes."""


class BadSecret(Exception):
    """A file of a secret cannot be used; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret, which is masked in messages from now on, and the mode of its file."""

    text: str
    mode: int


def of_option(settings: Settings, section: str, option: str) -> str | None:
    """Return the secret of the file that ``OPTION_file`` names; None if it is not set.

    A name without a slash is one of systemd's credentials. A file that cannot be used is an error;
    then the secret is empty.
    """
    name = option + SUFFIX
    text = settings.text(section, name)
    if not text:
        return None
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    is_named = bool(credentials) and "/" not in text
    path = Path(credentials, text) if is_named else Path(place.inside(text))
    try:
        found = read(path)
    except BadSecret as error:
        settings.error(section, name, str(error))
        return ""
    if found.mode & 0o004 and not is_named:
        settings.warn(section, name, f"every user of this host can read it; chmod o-r {path}")
    return found.text


def read(path: Path) -> Secret:
    """Return the secret of a file; a link is followed.

    Raises:
        BadSecret: the path is relative, or the file cannot be read or holds no secret.

    """
    if not path.is_absolute():
        raise BadSecret("must be the absolute path of a file, which holds the secret")
    try:
        with files.open_regular(path, follow=True) as file:
            mode = path.stat().st_mode & 0o777
            content = file.read(_LONGEST + 1)
    except OSError as error:
        unseen = place.unseen_secret(path) if isinstance(error, FileNotFoundError) else ""
        words = unseen or str(files.describe_unusable(path, error))
        raise BadSecret(words) from error
    first = content.decode(errors="replace").strip().partition("\n")[0].strip()
    if not first or len(content) > _LONGEST or "\ufffd" in first or not first.isprintable():
        raise BadSecret(f"{path} does not hold a secret; write it on the first line")
    log.hide(first)
    return Secret(first, mode)
