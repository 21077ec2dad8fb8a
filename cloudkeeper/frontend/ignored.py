"""Options and flags of cloudkeeper 1.7.1 and of atrope that are accepted and ignored."""

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
SOURCES_IGNORED = ("page_size", "sharing_model", "prefix", "file_path")
"""Options of atrope's sources; names and sharing of images are those of this program."""
