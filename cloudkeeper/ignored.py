"""Options and flags of the upstream programs that are accepted and ignored.

Files and command lines of cloudkeeper 1.7.1 and cloudkeeper-os 0.9.9 work unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.config import oslo

IGNORED: Mapping[str, tuple[str, ...]] = {
    # 1.7.1 starts nginx to serve the images of its remote mode, which this version does not have.
    "cloudkeeper.yml": (
        "external-tools.binaries.nginx",
        "nginx.runtime-dir",
        "nginx.error-log-file",
        "nginx.access-log-file",
        "nginx.pid-file",
        "nginx.ip-address",
        "nginx.port",
        "nginx.proxy.ip-address",
        "nginx.proxy.port",
        "nginx.proxy.ssl",
    ),
    # 0.9.9 keeps images of the remote mode in tempdir.
    "cloudkeeper-os.conf": (*oslo.LOG_OPTIONS, "tempdir"),
}
"""Options by file; a dot separates sections of cloudkeeper.yml, and all others are in [DEFAULT].

Each option of cloudkeeper.yml has its flag, without a line in --help.
"""
