"""The exceptions for a certificate or a revocation list whose bytes cannot be read."""

from cryptography import x509

UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for them; the last three have no common base with the first."""
