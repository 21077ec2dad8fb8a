"""Why something was not believed.

ApplianceError
├── Malformed         the bytes are not what they claim to be; nothing could be judged
└── Untrusted         well formed, but not proven: chain, revocation, policy, strength, key files
    ├── NoAnchor      no chain to a CA of the directory
    └── Tampered      the signature does not fit the text
"""

from __future__ import annotations

from appliance.core.run.errors import ApplianceError


class Malformed(ApplianceError):
    """Input that cannot be read as what it claims to be: a message, a CMS structure, a certificate."""


class Untrusted(ApplianceError):
    """Input that was read and judged, and is not to be believed."""


class NoAnchor(Untrusted):
    """A certificate from which no chain leads to a CA of the directory: it says nothing about it."""


class Tampered(Untrusted):
    """A digest or signature that does not fit the signed text."""
