"""``sender.cfg`` of SSM: read as it was meant, and with a destination that the administrator chose.

Releases of 2016 to 2020 sent to a queue for tests, which is never carried over silently. They
looked brokers up in an information system that has gone. Only the administrator knows where the
records of the site are to go, so the plan asks: ``--destination``.
"""

from __future__ import annotations

import re
from pathlib import Path

from appliance.admin.migrate import lines, release
from appliance.admin.migrate.workspace import Workspace
from appliance.core.config import ini
from appliance.core.config.document import Document

NAME = "/etc/apel/sender.cfg"
AMS, KEEP = "ams", "keep"
STOMP = re.compile(r"stomp://([^\s/]+:\d+)(/\S+)")
ASK = (
    "say where the messages go: --destination ams (EGI), stomp://HOST:PORT/queue/NAME, or keep"
    " (this test queue: nothing is accounted)"
)
_EGI = {
    ("sender", "protocol"): "AMS",
    ("broker", "host"): "msg.argo.grnet.gr",
    ("messaging", "ams_project"): "accounting",
    ("messaging", "destination"): "eu-egi-cloud-accounting",
}
_SPOOL = "/var/spool/apel/outgoing/openstack"
_OF_THE_IMAGE = "the test queue of the release's image was in use"
_INDENTED = re.compile(r"^[ \t]+\[", re.MULTILINE)


def convert(work: Workspace) -> None:
    """Plan the files of the sender."""
    folder = work.path("/etc/apel/sender.d")
    for path in sorted(folder.glob("*.cfg")) if folder.is_dir() else ():
        work.read(f"/etc/apel/sender.d/{path.name}")
    text = work.read(NAME)
    if text is None:
        _without_file(work)
        return
    if release.name(work) == release.WITHOUT_SENDER:
        # An installation has written the shipped file meanwhile.
        work.notes.append(f"{work.path(NAME)}: is new in this release: {_OF_THE_IMAGE}")
    if match := _INDENTED.search(text):
        work.planned[NAME] = "\n".join(line.strip() for line in text.split("\n"))
        line = text[: match.start()].count("\n") + 1
        work.note(NAME, line, "section headers with a leading blank were read as headers")
    if found := work.parse(NAME, ini.parse):
        _direct(work, found)


def _without_file(work: Workspace) -> None:
    """Ask for the destination of an earlier release that had no file of its own."""
    if not release.name(work):
        return
    work.notes.append(f"{work.path(NAME)}: does not exist: {_OF_THE_IMAGE}")
    text = work.base(NAME)
    if not work.destination:
        if not _has_place(ini.parse(work.layout.path(NAME), text)):
            work.questions.append(f"{work.path(NAME)}: {ASK}")
    elif work.destination != KEEP:
        text = _directed(work.destination, text)
        if ini.parse(work.path(NAME), text).get("messaging", "path") is None:
            text = lines.with_option(text, "messaging", "path", _SPOOL, separator=": ")
        work.planned[NAME] = text


def _has_place(found: Document) -> bool:
    """Return whether a file names a broker, and a destination that is not for tests."""
    host, destination = found.get("broker", "host"), found.get("messaging", "destination")
    return bool(host and host.text and destination and ".test." not in destination.text)


def _direct(work: Workspace, found: Document) -> None:
    """Replace a test queue, or a broker that is looked up, by the answer."""
    if _has_place(found):
        return
    destination = found.get("messaging", "destination")
    line = destination.line if destination else 0
    if destination and ".test." in destination.text:
        work.note(NAME, line, "the destination is a test queue")
    if not work.destination:
        work.questions.append(f"{work.path(NAME)}:{line}: {ASK}")
    elif work.destination == KEEP:
        work.find(NAME, line, "the test queue is kept as asked: nothing is accounted")
    else:
        work.planned[NAME] = _directed(work.destination, work.planned[NAME])


def _directed(destination: str, text: str) -> str:
    """Return a sender's file that sends to the answer."""
    options = _EGI
    if match := STOMP.fullmatch(destination):
        options = {("sender", "protocol"): "STOMP", ("messaging", "destination"): match[2]}
        if match[1] != _broker(text):
            options |= {("broker", "host"): match[1]}
    for (section, option), value in options.items():
        text = lines.with_option(text, section, option, value, separator=": ")
    return text


def _broker(text: str) -> str:
    """Return the broker that a sender's file names, as HOST:PORT."""
    found = ini.parse(Path(NAME), text)
    host, port = found.get("broker", "host"), found.get("broker", "port")
    return f"{host.text}:{port.text}" if host and port else host.text if host else ""
