"""Options and flags of SSM that are accepted and ignored.

SSM ships both files with the same sections, and people copy options from one to the other. So each
program accepts the other's options, and each protocol the other's.
"""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.config.settings import Settings

IGNORED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # SSM 2 looked up brokers in the information system; these give a warning.
    "always": {"broker": ("bdii", "network")},
    "sender": {"daemon": ("pidfile",)},
    "receiver": {
        "certificates": ("server_cert", "verify_server_cert", "cipher"),
        "messaging": ("path_type",),
        "journal": ("path", "months"),
    },
    "STOMP": {
        "broker": ("authn_port", "system_cas"),
        "messaging": ("ams_project", "token", "token_file"),
    },
}
"""Options by section, for each role and protocol that ignores them."""

IGNORED_FLAGS = ("-l", "--log_config")


def accept(settings: Settings, ignoring: str) -> None:
    """Accept the options that a role or a protocol ignores."""
    for section, options in IGNORED[ignoring].items():
        settings.accept(section, options)
