"""URLs that a job pings for a dead-man switch: the block ``pings`` of ``appliance.yaml``.

Whoever knows such a URL can say that all is well. So it is in a file of its own, which only root
reads, and no message shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from appliance.admin.inventory import JOBS
from appliance.core import hosts
from appliance.core.config import secret_file
from appliance.core.config.settings import Settings
from appliance.core.run import log
from appliance.core.run.errors import LocalFailure

_SECTION = "pings"
_REMEDY = "write https://HOST/PATH on its first line"


def read(settings: Settings) -> Mapping[str, Path]:
    """Return the file of each job that has one; errors in the block are collected."""
    found = {}
    for job in JOBS:
        option = job + secret_file.SUFFIX
        text = settings.text(_SECTION, option)
        if text.startswith("/"):
            found[job] = Path(text)
        elif text:  # which may be the URL itself, so it is not quoted
            log.hide(text)
            words = "must be the absolute path of a file (mode 0600) with the URL on its first line"
            settings.error(_SECTION, option, words)
    return found


def url_of(path: Path) -> str:
    """Return the URL in a file, which is masked in messages from now on.

    Raises:
        LocalFailure: the file cannot be used, others can read it, or it holds something else.

    """
    try:
        found = secret_file.read(path)
    except secret_file.BadSecret as error:
        cause, _, remedy = str(error).removeprefix(f"{path}: ").rpartition("; ")
        raise LocalFailure(path, cause or remedy, remedy if cause else _REMEDY) from error
    if found.mode & 0o077:
        raise LocalFailure(path, "others can read it, and it is a secret", f"chmod 0600 {path}")
    fault = hosts.url_fault(found.text)
    if fault or not found.text.startswith("https://"):
        raise LocalFailure(path, fault or "is not a URL of TLS", _REMEDY)
    for part in urlsplit(found.text).path.split("/"):
        log.hide(part)
    return found.text.rstrip("/")
