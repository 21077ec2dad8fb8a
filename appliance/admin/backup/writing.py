"""Writing a backup: copies of all files while jobs run, and the manifest at the end."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from datetime import UTC
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.backup import archive, copies, envelope, keys, outside, places
from appliance.admin.backup.archive import ArchiveWriter
from appliance.admin.backup.envelope import Recipient
from appliance.admin.backup.manifest import Manifest
from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, LocalFailure, UsageError
from appliance.core.run.layout import Layout
from appliance.core.version import __version__


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Write the backup. `ExitStatus.PARTLY` if a damaged file was left out."""
    layout = cli.layout(arguments)
    settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("appliance", "only root can make a backup", "sudo appliance backup FILE")
    recipients = _recipients(arguments, layout)
    target: Path = arguments.file.absolute()
    if not target.parent.is_dir():
        raise UsageError(target.parent, "is not a directory", "name a FILE in one that exists")
    changing.refuse(layout)
    made, size, lines = write(target, recipients, layout)
    for line in (*lines, *outside.notes(layout)):
        print(line)
    kind = "encrypted" if recipients else "NOT encrypted"
    print(f"{target}: {len(made.digests)} files, {size / 1e6:.1f} MB, {kind}")
    return ExitStatus.PARTLY if lines else ExitStatus.DONE


def write(
    target: Path, recipients: Sequence[Recipient], layout: Layout
) -> tuple[Manifest, int, list[str]]:
    """Write a backup; return its manifest, its bytes, and a line for each file that it lacks.

    Raises:
        LocalFailure: It cannot be written; nothing is left of it.

    """
    made = _Backup(layout)
    try:
        with archive.written(target, recipients) as writer:
            manifest = made.write(writer)
    except OSError as error:
        remedy = "free space there or name another FILE; nothing is left of this one"
        raise LocalFailure.from_os(error, subject=target, remedy=remedy) from error
    return manifest, writer.size, made.lines


def _recipients(arguments: argparse.Namespace, layout: Layout) -> list[Recipient]:
    certificates = [keys.certificate(path, layout) for path in arguments.to]
    found = [envelope.to_certificate(certificate) for certificate in certificates]
    if arguments.passphrase_file:
        found.append(envelope.to_passphrase(keys.new_passphrase(arguments.passphrase_file)))
    if bool(found) == arguments.unencrypted:
        cause = "must be encrypted" if not found else "cannot be both encrypted and not"
        remedy = "name --to CERT.pem or --passphrase-file FILE, or write --unencrypted"
        raise UsageError("the backup", cause, remedy)
    return found


class _Backup:
    """A backup that is being made, and a line for each file that it lacks."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._schemas: dict[str, tuple[int, int]] = {}
        self.lines: list[str] = []

    def write(self, writer: ArchiveWriter) -> Manifest:
        """Write all files, and the manifest."""
        begin = clock.now().astimezone(UTC).isoformat(timespec="seconds")
        with copies.folder(self._layout) as folder:
            for name, path in self._files():
                self._add(writer, name, path, folder / "copy.sqlite")
        manifest = Manifest(
            version=settings.in_use(self._layout) or __version__,
            site=outside.site_name(self._layout),
            host=os.uname().nodename,
            taken=begin,
            digests=writer.digests,
            schemas=self._schemas,
        )
        writer.close(manifest)
        return manifest

    def _files(self) -> Iterator[tuple[str, Path]]:
        yield from places.configuration(self._layout)
        yield from places.state(self._layout)

    def _add(self, writer: ArchiveWriter, name: str, path: Path, copy: Path) -> None:
        try:
            is_database = path.is_file() and copies.is_database(path)
        except FileNotFoundError:  # a message that has just been sent
            return
        if is_database:
            try:
                self._schemas[name] = copies.copy(path, copy)
            except LocalFailure as error:
                self.lines.append(str(error))
                return
            writer.add(name, path, content=copy)
            return
        try:
            writer.add(name, path)
        except FileNotFoundError:
            return
