"""slapd's configuration: one writer at the unix socket, and limits for everybody who reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from appliance.core.run import place
from bdii.settings import BdiiSettings
from bdii.slapd import infosys
from bdii.tree import SUFFIX

# GLUE 1: clients search below o=grid, mds-vo-name=resource,o=grid and mds-vo-name=SITE,o=grid. The
# attribute is that of the MDS schema; without its definition these names are a syntax error.
GLUE_1 = "o=grid"
_MDS_VO_NAME = (
    "attributetype ( 1.3.6.1.4.1.3536.2.6.1.4.0.1 NAME 'Mds-Vo-name' "
    "EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )"
)
# Bytes that LMDB may grow to. This is address space only: what counts is the room of the file
# system. 100 000 entries take 255 MiB, so there is space for more entries than one search may
# return. LMDB's own default, 10 MiB, is full at some thousand.
MAP_SIZE = 4 * 2**30
# Entries that one search may return: more than any real tree has, but an end for every search.
SIZE_LIMIT = 1_000_000
# Searches at a time. A client that stops reading its answer holds one of them until `_STALLED`.
THREADS = 128
# Seconds after which slapd closes a connection on which nothing is asked, and one whose client has
# stopped reading. It looks each quarter of the first, so that 24 means 30 at the latest.
_IDLE = 24
_STALLED = 60
# Seconds for one search. slapd counts the time that a slow client takes to read, so this is the
# upstream BDII's limit: a shorter one would cut the whole tree on a slow line.
_SEARCH = 2400
# Attributes GLUE2…ID with an index.
_KEYS = (
    "Group",
    "ExtensionLocal",
    "Location",
    "Contact",
    "Domain",
    "Service",
    "Endpoint",
    "Share",
    "Manager",
    "Resource",
    "Activity",
    "Policy",
    "Benchmark",
    "ApplicationEnvironment",
    "ApplicationHandle",
)


def files(settings: BdiiSettings, directory: Path) -> Mapping[str, str]:
    """Return the files for a database below ``directory``, by name."""
    return {"infosys.schema": infosys.schema(), "slapd.conf": _text(settings, directory)}


def _text(settings: BdiiSettings, directory: Path) -> str:
    """Return the content of ``slapd.conf`` for a database below ``directory``.

    Only the user of this process can write: the kernel identifies it at the unix socket, so there
    is no password. Everybody can read, within limits of size, time, idleness and pending requests.
    """
    owner = f"gidNumber={os.getegid()}+uidNumber={os.geteuid()},cn=peercred,cn=external,cn=auth"
    schemas = [settings.schemas / f"{name}.schema" for name in ("core", "cosine", "GLUE20")]
    lines = [
        *(f'include "{schema}"' for schema in (*schemas, directory / "infosys.schema")),
        _MDS_VO_NAME,
        "modulepath /usr/lib/ldap",
        "moduleload back_mdb",
        "moduleload back_null",
        "allow bind_v2",  # LDAP version 2, as upstream: old clients bind with it
        "disallow bind_simple",  # there is no password to try
        "loglevel none",
        f"threads {THREADS}",
        f"sizelimit {SIZE_LIMIT}",
        f"timelimit {_SEARCH}",
        f"idletimeout {_IDLE}",
        f"writetimeout {_STALLED}",
        "conn_max_pending 50",
        "access to * by * read",
        *_database(SUFFIX, owner, directory / "glue", MAP_SIZE),
        *(f"index GLUE2{key}ID eq" for key in _KEYS),
        *_database(infosys.SUFFIX, owner, directory / "infosys", 16 * 2**20),
        # Nothing is published in GLUE 1. A search there finds nothing, as in the upstream BDII:
        # clients take "no such object" for a failure of the service.
        "database null",
        f'suffix "{GLUE_1}"',
        "readonly on",
    ]
    return "\n".join([*lines, ""])


def room_remedy(settings: BdiiSettings) -> str:
    """Return how to make room for a database; a container has it in its memory."""
    if place.is_container():
        return f"raise FEDCLOUD_MEMORY_BDII in {place.SETTINGS}, then systemctl restart bdii"
    return f"free space in {settings.state / 'db'}"


def messages(text: str) -> list[str]:
    """Return what slapd prints, without its remark about `THREADS` at each start."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and "YMMV" not in line]


def _database(suffix: str, owner: str, directory: Path, size: int) -> list[str]:
    return [
        "database mdb",
        f'suffix "{suffix}"',
        f'rootdn "{owner}"',  # this identity is exempt from access rules and limits
        f'directory "{directory}"',
        f"maxsize {size}",
        "dbnosync",  # after a power cut a new one is made; the end of slapd alone loses nothing
        "index objectClass eq,pres",
    ]
