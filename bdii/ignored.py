"""Keys that the upstream bdii package knows: accepted here, and ignored."""

from __future__ import annotations

from collections.abc import Mapping

_CONTAINER = "mount the directory in memory in the definition of the container or unit"

# By file. A warning names the alternative; keys without a text are ignored silently.
IGNORED: Mapping[str, Mapping[str, str]] = {
    "bdii.conf": {
        "BDII_PID_FILE": "the lock file in BDII_VAR_DIR holds the process id",
        "BDII_USER": "the program runs as the user that starts it",
        "BDII_RAM_DISK": _CONTAINER,
        "BDII_RAM_SIZE": _CONTAINER,
        "BDII_ARCHIVE_SIZE": "no snapshots are kept; see published.ldif in BDII_VAR_DIR",
        "SLAPD_CONF": "slapd's configuration is generated",
        "DB_CONFIG": "slapd's configuration is generated",
        "SLAPD_DB_DIR": "the databases are in BDII_VAR_DIR",
        "DELAYED_DELETE": "BDII_VAR_DIR holds the list of vanished entries",
    },
    "site.cfg": {"SITE_DISTRIBUTED": ""},
}
