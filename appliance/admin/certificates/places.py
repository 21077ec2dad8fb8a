"""Where the installation's own authority and what it signs are."""

from __future__ import annotations

DIRECTORY = "/etc/fedcloud/tls"
CERTIFICATE, KEY = f"{DIRECTORY}/authority.pem", f"{DIRECTORY}/authority.key"
"""Of the authority; the key is root's."""
BACKEND, FRONTEND = f"{DIRECTORY}/cloudkeeper-os", f"{DIRECTORY}/cloudkeeper"
"""Directories of the two sides: ``certificate.pem``, ``key.pem``, ``authority.pem``."""
