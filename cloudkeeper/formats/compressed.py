"""Compressed files, recognised by their first bytes."""

from __future__ import annotations

import re

# More than the magic, so that no disk looks like one: gzip with its only method and no reserved
# flags, bzip2 with the mark of its first block or of its end, an empty file.
_MARKS = {
    "gzip": re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}


def compression_of(start: bytes) -> str:
    """Return the kind by which a file with these first bytes is compressed; empty for none."""
    return next((kind for kind, mark in _MARKS.items() if mark.match(start)), "")
