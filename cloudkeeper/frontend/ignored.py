"""Options and flags of cloudkeeper 1.7.1 and of atrope that are accepted and ignored."""

from __future__ import annotations

from collections.abc import Mapping

IGNORED = (
    "external-tools.binaries.nginx",
    "nginx.runtime-dir",
    "nginx.error-log-file",
    "nginx.access-log-file",
    "nginx.pid-file",
)
"""Options of cloudkeeper.yml, below ``cloudkeeper``; each has its flag, without a line in --help.

1.7.1 starts nginx to serve the images of its remote mode; this version serves them itself.
"""
SOURCES_IGNORED: Mapping[str, str] = {
    "page_size": "the length of pages is fixed",
    "sharing_model": "image_sharing in cloudkeeper-os.conf says how VOs get an image",
    "prefix": "the name of an image begins with the host of its registry",
    "file_path": "files are kept in image-dir while they are transferred",
}
"""Options of atrope's sources, with the reason why they have no effect."""
