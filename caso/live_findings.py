"""What `caso check` tries, as findings with the ids of the table of faults: ``--check-live``."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import replace

from appliance.core.cloud import faults
from appliance.core.config import document, oslo
from appliance.core.config.settings import Settings
from appliance.core.run.finding import Finding
from caso import live_check, silence
from caso.live_check import Result
from caso.settings import CasoConfiguration

_ROWS = {
    "site": "C22",
    "state": "C40",
    "spool": "C40",
    "ledger": "C42",
    "login": "C30",
    "users": "C32.a",
    "projects": "C31",
    "vo": "C23",
    "checkpoint": "C42",
    "rights": "C33.a",
    "deleted": "C33.b",
    "flavors": "C34.a",
    "clocks": "C01.a",
    silence.GAPS: "C42.a",
    silence.MESSENGER: "C42.b",
}
"""By the name of a result, its row; the words of a failure decide more finely."""
_TRIED = {
    "login": "POST /v3/auth/tokens",
    "users": "GET /v3/users",
    "projects": "GET /v3/auth/projects",
    "vo": "GET /v3/auth/projects",
    "rights": "a token of the project, the usage, and the listings of a run",
    "deleted": "the usage of a day, and GET /servers/detail?changes-since=",
    "flavors": "GET /flavors/detail",
    "clocks": "the Date of all answers",
}
_LOCAL = frozenset({"site", "state", "spool", "ledger", "checkpoint"})
_FULL = re.compile(rf"files are free|{errno.ENOSPC}")
_SMALL_FILES = re.compile(r"remove small files")


def findings(configuration: CasoConfiguration) -> Iterator[Finding]:
    """Yield a finding for each result that is not good."""
    prompt = replace(configuration, access=faults.prompt(configuration.access))
    for result in live_check.results(prompt):
        if result.state != "good":
            yield _finding(result, prompt)


def _finding(result: Result, configuration: CasoConfiguration) -> Finding:
    row, is_error = _ROWS[result.name], result.state == "fault"
    if result.name in (silence.GAPS, silence.MESSENGER):
        return _of_silence(result, configuration, row)
    tried = _TRIED.get(result.name, result.subject)
    text = f"{result.subject}: {result.text}"
    if result.name in _LOCAL:
        return _local(result, configuration, row)
    found = faults.of_text(
        text, configuration.access, tried=tried, otherwise=row, is_error=is_error
    )
    if found.identifier.startswith("C23") and not found.path:
        return replace(found, path=str(configuration.mapping.path))
    if row == "C01.a":  # no option of the account is behind it
        return replace(found, identifier=row, path="", line=0, option="")
    return found


def _of_silence(result: Result, configuration: CasoConfiguration, row: str) -> Finding:
    """Return the finding about deliveries: in the ledger, or in the list of messengers."""
    path, line, option = str(configuration.ledger), 0, result.subject
    if result.name == silence.MESSENGER:
        settings = Settings(document.read(configuration.paths, oslo.parse))
        if entry := settings.where("DEFAULT", "messengers"):
            path, line, option = str(entry.path), entry.line, "messengers"
    tried = str(configuration.ledger)
    return Finding(path, line, option, result.text, row, is_error=False, tried=tried)


def _local(result: Result, configuration: CasoConfiguration, row: str) -> Finding:
    """Return the finding about this host: in a file or directory, or in caso.conf."""
    if not result.subject.startswith("/"):
        path = str(configuration.paths[0])
        return Finding(path, 0, result.subject, result.text, row, tried=path)
    if result.name in ("state", "spool"):
        full = "C02.c" if _SMALL_FILES.search(result.text) else "C02.b"
        row = full if _FULL.search(result.text) else "C40.a"
    return Finding(result.subject, 0, "", result.text, row, tried=result.subject)
