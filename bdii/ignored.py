"""Keys of the bdii package that are accepted in ``bdii.conf`` and ignored."""

from __future__ import annotations

IGNORED = {
    "BDII_PID_FILE": "the lock file in BDII_VAR_DIR holds the process id",
    "BDII_USER": "the program runs as the user that starts it",
    "BDII_RAM_DISK": "mount the directory in memory where the container or unit is defined",
    "BDII_RAM_SIZE": "mount the directory in memory where the container or unit is defined",
    "BDII_PLUGIN_DIR": "plugins are not run; let the provider print the final entries",
    "BDII_ARCHIVE_SIZE": "no snapshots are kept; published.ldif in BDII_VAR_DIR is the latest tree",
    "SLAPD_CONF": "slapd's configuration is generated",
    "DB_CONFIG": "slapd's configuration is generated",
    "SLAPD_DB_DIR": "the database is made anew in BDII_VAR_DIR at each start",
    "DELAYED_DELETE": "vanished entries are remembered in BDII_VAR_DIR",
}
