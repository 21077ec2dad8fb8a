"""Refusals of messages, certificates and keys.

ApplianceError
├── Malformed         the bytes do not have the form that they claim, so nothing was verified
└── Untrusted         well formed, but refused: chain, revocation, policy, strength, key files
    ├── NoAnchor      no chain to a CA of the directory
    └── Tampered      the signature does not match the text
"""

from __future__ import annotations

from appliance.core.run.errors import ApplianceError


class Malformed(ApplianceError):
    """Input without the form that it claims: a message, a CMS structure, a certificate."""


class Untrusted(ApplianceError):
    """Input that was read and verified, and is not trusted."""


class NoAnchor(Untrusted):
    """A certificate without a chain to a CA of the directory, whose rules do not apply to it."""


class Tampered(Untrusted):
    """A digest or signature that does not match the signed text."""
