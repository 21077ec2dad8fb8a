"""Paths of the installation's own authority and of the certificates that it signs."""

from __future__ import annotations

DIRECTORY = "/etc/fedcloud/tls"
CERTIFICATE, KEY = f"{DIRECTORY}/authority.pem", f"{DIRECTORY}/authority.key"
"""Certificate and key of the authority; only root can read the key."""
BACKEND, FRONTEND = f"{DIRECTORY}/cloudkeeper-os", f"{DIRECTORY}/cloudkeeper"
"""Directories of the two sides: ``certificate.pem``, ``key.pem``, ``authority.pem``."""
