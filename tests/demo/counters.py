"""Independent counts: Nova's own database, the openssl program, a plain socket to the broker.

Nothing here imports the code whose results it counts.
"""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

Month = str
"""``YYYY-MM``."""

MONTHLY_SECONDS = """
WITH RECURSIVE
  server AS (
    SELECT uuid, project_id,
           CAST(strftime('%s', substr(created_at, 1, 19)) AS INTEGER) AS born,
           MIN(:until, COALESCE(CAST(strftime('%s',
               substr(COALESCE(terminated_at, deleted_at), 1, 19)) AS INTEGER), :until)) AS died
    FROM instances WHERE launched_at IS NOT NULL AND created_at <= datetime(:until, 'unixepoch')),
  part AS (
    SELECT uuid, project_id, born, died,
           CAST(strftime('%s', born, 'unixepoch', 'start of month', '+1 month') AS INTEGER)
               AS border, born AS begun
    FROM server
    UNION ALL
    SELECT uuid, project_id, born, died,
           CAST(strftime('%s', border, 'unixepoch', '+1 month') AS INTEGER), border
    FROM part WHERE border <= died)
SELECT project_id, strftime('%Y-%m', begun, 'unixepoch') AS month, COUNT(*),
       SUM(MIN(died, border - 1) - CASE WHEN begun = born THEN born ELSE begun - 1 END)
FROM part GROUP BY project_id, month
"""
"""Servers and seconds by project and calendar month.

A month ends at 23:59:59, as in APEL's tables: the second after it belongs to the next one, so that
the months of a server add up to its whole life.  Fractions are cut before ``strftime`` reads them,
because it rounds 1.9995 s up to 2 s.
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one project and month: servers that lived in it, and their seconds in it."""

    servers: int
    seconds: int


def nova_usage(database: Path, until: datetime) -> dict[tuple[str, Month], Usage]:
    """Return servers and seconds by (project id, month) up to a moment, as SQLite computes it."""
    with closing(
        sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    ) as connection:
        rows = connection.execute(MONTHLY_SECONDS, {"until": int(until.timestamp())}).fetchall()
    return {(project, month): Usage(servers, seconds) for project, month, servers, seconds in rows}


VOLUMES = """
SELECT count(*), sum(size) FROM volumes
WHERE NOT deleted AND project_id IN (SELECT value FROM json_each(:projects))
"""
ADDRESSES = """
SELECT count(*), 0 FROM floatingips
WHERE project_id IN (SELECT value FROM json_each(:projects))
"""
WITH_FLAVOR = """
SELECT count(*), 0 FROM instances JOIN instance_extra ON instance_uuid = uuid
WHERE launched_at IS NOT NULL AND flavor LIKE '%"' || :flavor || '"%'
  AND project_id IN (SELECT value FROM json_each(:projects))
"""


def count(
    database: Path, statement: str, projects: Iterable[str], flavor: str = ""
) -> tuple[int, int]:
    """Return the number of things of some projects, and the sum of their sizes."""
    values = {"projects": json.dumps(list(projects)), "flavor": flavor}
    with closing(
        sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    ) as connection:
        number, size = connection.execute(statement, values).fetchone()
    return int(number), int(size or 0)


def copies_of_messages(port: int, queue: str) -> Iterator[bytes]:
    """Take all messages from a queue over STOMP 1.1 on a plain socket, until a second is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"CONNECT\naccept-version:1.1\nhost:localhost\n\n\0")
        connection.sendall(f"SUBSCRIBE\nid:1\nack:auto\ndestination:{queue}\n\n\0".encode())
        connection.settimeout(1.0)
        buffer = b""
        while True:
            try:
                data = connection.recv(1 << 16)
            except TimeoutError:
                return
            if not data:
                return
            buffer += data
            while (frame := _whole_frame(buffer)) is not None:
                used, command, body = frame
                buffer = buffer[used:]
                if command == b"MESSAGE":
                    yield body


def _whole_frame(buffer: bytes) -> tuple[int, bytes, bytes] | None:
    lead = len(buffer) - len(buffer.lstrip(b"\r\n"))
    head, separator, _ = buffer[lead:].partition(b"\n\n")
    if not separator:
        return None
    start = lead + len(head) + 2
    length = re.search(rb"\ncontent-length:(\d+)", head)
    end = start + int(length[1]) if length else buffer.find(b"\0", start)
    if end < 0 or len(buffer) <= end:
        return None
    return end + 1, head.split(b"\n", 1)[0], buffer[start:end]


def text_verified_by_openssl(message: bytes, ca_directory: Path) -> str | None:
    """Return the signed text if the openssl program accepts signature, chain and CRL, else None."""
    command = [
        "openssl",
        "cms",
        "-verify",
        "-inform",
        "SMIME",
        "-CApath",
        str(ca_directory),
        "-purpose",
        "any",
    ]
    shown = subprocess.run(
        [*command, "-crl_check_all"], input=message, capture_output=True, check=False
    )
    return (
        shown.stdout.decode().replace("\r\n", "\n").partition("\n\n")[2]
        if shown.returncode == 0
        else None
    )


def records(texts: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the records of accounting messages as dictionaries of text."""
    for text in texts:
        _, _, body = text.partition("\n")
        for block in body.split("%%"):
            pairs = [line.split(": ", 1) for line in block.strip().splitlines() if ": " in line]
            if pairs:
                yield dict(pairs)


def accounted(received: Iterable[Mapping[str, str]]) -> tuple[dict[tuple[str, Month], Usage], int]:
    """Apply APEL's rule: one row for each (VM, month), the last one wins.

    A month's usage is the growth since the row before.

    Returns the sums for each (project id, month) and the number of records that replaced an equal
    one.
    """
    rows: dict[tuple[str, Month], tuple[str, int]] = {}  # of (VM, month)
    repeated = 0
    for record in received:
        wall = int(record["WallDuration"])
        measured = (
            int(record["EndTime"])
            if record["Status"] == "completed"
            else int(record["StartTime"]) + wall
        )
        key = (record["VMUUID"], datetime.fromtimestamp(measured, UTC).strftime("%Y-%m"))
        repeated += rows.get(key) == (record["LocalGroupId"], wall)
        rows[key] = (record["LocalGroupId"], wall)
    servers: Counter[tuple[str, Month]] = Counter()
    seconds: Counter[tuple[str, Month]] = Counter()
    before: dict[str, int] = {}
    for (server, month), (project, wall) in sorted(rows.items(), key=lambda item: item[0][1]):
        servers[project, month] += 1
        seconds[project, month] += wall - before.get(server, 0)
        before[server] = wall
    return {key: Usage(servers[key], seconds[key]) for key in servers}, repeated
