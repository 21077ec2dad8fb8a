"""slapd's configuration: one writer at the unix socket, everybody reads within limits."""

from __future__ import annotations

import os
from pathlib import Path

from bdii.settings import BdiiSettings
from bdii.slapd import infosys
from bdii.tree import SUFFIX

MAP_SIZE = 4 * 2**30
"""What LMDB may grow to, in octets; only address space, room for millions of entries. Its own default is 10 MiB."""

SIZE_LIMIT = 1_000_000
"""Entries that one search may return to a stranger: any tree that there is, and an end all the same."""
_KEYS = (
    *(
        "Group",
        "ExtensionLocal",
        "Location",
        "Contact",
        "Domain",
        "Service",
        "Endpoint",
        "Share",
        "Manager",
    ),
    *("Resource", "Activity", "Policy", "Benchmark", "ApplicationEnvironment", "ApplicationHandle"),
)


def text(settings: BdiiSettings, directory: Path) -> str:
    """Return slapd's configuration.

    Only this user writes, known by the kernel's word at the unix socket; there is no password.
    Everybody reads, within limits of size, time, idleness and pending requests.
    """
    owner = f"gidNumber={os.getegid()}+uidNumber={os.geteuid()},cn=peercred,cn=external,cn=auth"
    schemas = [settings.schemas / f"{name}.schema" for name in ("core", "cosine", "GLUE20")]
    lines = [
        *(f'include "{schema}"' for schema in (*schemas, directory / "infosys.schema")),
        "modulepath /usr/lib/ldap",
        "moduleload back_mdb",
        "allow bind_v2",
        "disallow bind_simple",
        "loglevel none",
        "threads 8",
        f"sizelimit {SIZE_LIMIT}",
        "timelimit 120",
        "idletimeout 120",
        "writetimeout 60",
        "conn_max_pending 50",
        "access to * by * read",
        *_database(SUFFIX, owner, directory / "glue", MAP_SIZE),
        *(f"index GLUE2{key}ID eq" for key in _KEYS),
        *_database(infosys.SUFFIX, owner, directory / "infosys", 16 * 2**20),
    ]
    return "\n".join([*lines, ""])


def _database(suffix: str, owner: str, directory: Path, size: int) -> list[str]:
    return [
        "database mdb",
        f'suffix "{suffix}"',
        f'rootdn "{owner}"',
        f'directory "{directory}"',
        f"maxsize {size}",
        "dbnosync",
        "index objectClass eq,pres",
    ]
