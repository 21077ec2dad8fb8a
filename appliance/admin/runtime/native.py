"""Jobs and services without containers: programs in ``/opt/fedcloud/current``, services as units.

The installer records in the state directory that a host runs without containers; other modules read
`appliance.admin.settings.Host`.

A job gets what its container would get: the account, no capabilities and no way to gain any, and
bind mounts in a namespace of its own: its directory of run records, the copy of the host key, the
images. `unshare` and `setpriv` (util-linux) set that up and then execute the program, so that it
keeps their process id and receives signals sent to the child.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from appliance.admin import account
from appliance.admin.inventory import Job
from appliance.admin.runtime.engine import ServiceState
from appliance.core import directory, files
from appliance.core.run import place
from appliance.core.run.errors import Unavailable
from appliance.core.run.layout import Layout

PROGRAMS = "/opt/fedcloud/current/bin"
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
"""Bundles of web server authorities: of Debian's family, of Red Hat's, of others."""
UNITS = {"cloudbdii": "cloudbdii", "sitebdii": "bdii", "cloudkeeper-os": "cloudkeeper-os"}
"""The systemd unit of each service, without containers."""
_BACKEND = "/run/cloudkeeper/backend.sock"
_BDIIS = {"cloudbdii": ("resource", 2171), "sitebdii": ("site", 2170)}
"""The level of each BDII, and its port if it has not yet written its address."""
_ANSWER = timedelta(seconds=5)
"""Time within which a service must answer."""
_SYSTEMCTL, _JOURNALCTL = "/usr/bin/systemctl", "/usr/bin/journalctl"
_HEALTH = {"active": "healthy", "activating": "starting", "failed": "unhealthy"}
_BIND = """
set -e
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"""
_IMAGES = ("/image_data", "/var/spool/cloudkeeper/images")


def authorities(named: str = "") -> str:
    """Return the file of web server authorities: the ``named`` one, else this system's."""
    usual = next((place for place in AUTHORITIES if Path(place).exists()), AUTHORITIES[0])
    return named if named and Path(named).exists() else usual


def command(
    job: Job, layout: Layout, *, mounts: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """Return the command line of a job; ``mounts`` are ``SOURCE:TARGET:ro``, as for a container.

    Raises:
        Unavailable: The program is not installed.

    """
    name, *flags = job.command
    program = layout.path(PROGRAMS) / name
    if not program.exists():
        raise Unavailable(program, "is not installed", "run the bundle's install again")
    pairs = [tuple(mount.removesuffix(":ro").split(":")) for mount in mounts]
    pairs.append((str(layout.runs / job.service), str(layout.runs)))
    if job.service == "cloudkeeper":
        pairs.append((str(layout.path(_IMAGES[0])), str(layout.path(_IMAGES[1]))))
    # A bind mount of a directory onto itself would have no effect.
    binds = [word for pair in pairs if pair[0] != pair[1] for word in pair]
    who = ["--reuid", str(account.ID), "--regid", str(account.ID), "--clear-groups"]
    # --pdeathsig again: the kernel clears it when the process changes its user id, prctl(2).
    rights = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--pdeathsig", "TERM"]
    inside = ["/usr/bin/setpriv", *who, *rights, str(program), *flags, *arguments]
    return ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", _BIND, "sh", *binds, "--", *inside]


def environment(
    proxies: Mapping[str, str], *, named_authorities: str, root: Path
) -> dict[str, str]:
    """Return the environment of a job: the one that its container would have."""
    file = authorities(named_authorities)
    found = {
        "PATH": f"{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        place.NATIVE: "1",  # for the commands that messages name
        "PYTHONUNBUFFERED": "1",
        "REQUESTS_CA_BUNDLE": file,
        "SSL_CERT_FILE": file,
        **proxies,
        # Programs prefer the lower-case names, and curl ignores HTTP_PROXY in upper case.
        **{name.lower(): text for name, text in proxies.items()},
    }
    return found if root == Path("/") else found | {"FEDCLOUD_ROOT": str(root)}


def services(layout: Layout) -> list[ServiceState]:
    """Return the state of each service whose unit is installed, and enabled or not stopped.

    One that an administrator has stopped and disabled is left out, like a container that nobody
    has made: cloudkeeper in direct mode needs no service.

    A service that is active is healthy if it answers.

    Raises:
        Unavailable: systemctl fails.

    """
    found = []
    for service, unit in UNITS.items():
        shown = _show(unit)
        if shown.get("LoadState") != "loaded":
            continue
        active = shown.get("ActiveState", "")
        if active == "inactive" and shown.get("UnitFileState") == "disabled":
            continue
        # A unit with a wait in ExecStartPost is "activating" while its program runs already.
        is_running = active in ("active", "activating")
        fault = amiss(service, layout) if active == "active" else ""
        found.append(
            ServiceState(
                service=service,
                state="running" if is_running else "exited",
                health="unhealthy" if fault else _HEALTH.get(active, ""),
                since=_moment(shown.get("StateChangeTimestamp", "")),
                restarts=int(shown.get("NRestarts") or 0),
                exit_status=None if is_running else int(shown.get("ExecMainStatus") or 0),
                said=fault,
            )
        )
    return found


def amiss(service: str, layout: Layout) -> str:
    """Return why a service does not answer; empty if it does. A BDII is asked as strangers ask."""
    if service in _BDIIS:
        return _bdii_amiss(service, layout)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_ANSWER.total_seconds())
            client.connect(str(layout.path(_BACKEND)))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _bdii_amiss(service: str, layout: Layout) -> str:
    level, port = _BDIIS[service]
    host = "localhost"
    file = layout.path(f"/var/lib/fedcloud/bdii/{level}/run/address")
    try:
        parts = urlsplit(files.read_regular(file, limit=1000).decode().strip())
        host, port = parts.hostname or host, parts.port or port
    except (OSError, ValueError):
        pass  # it has never started, or another account may not look: its usual place
    return directory.why_silent(host, port, timeout=_ANSWER)


def logs(services: Sequence[str], *, lines: int, follow: bool) -> int:
    """Print the journal of services in the order of time; return journalctl's exit status."""
    units = [word for service in services for word in ("-u", f"{UNITS[service]}.service")]
    return _journal("cat", units, lines=lines, follow=follow)


def job_logs(jobs: Sequence[str], *, lines: int, follow: bool) -> int:
    """Print the journal of jobs, with their times; return journalctl's exit status."""
    # Several values of one field are alternatives, journalctl(1).
    matches = [f"FEDCLOUD_JOB={job}" for job in jobs]
    return _journal("short-iso", matches, lines=lines, follow=follow)


def _journal(form: str, matches: Sequence[str], *, lines: int, follow: bool) -> int:
    words = [_JOURNALCTL, "--no-pager", f"--output={form}", "-n", str(lines)]
    words += ["-f"] if follow else []
    return subprocess.run([*words, *matches], check=False).returncode


def _show(unit: str) -> dict[str, str]:
    names = "LoadState,ActiveState,UnitFileState,StateChangeTimestamp,NRestarts,ExecMainStatus"
    words = [_SYSTEMCTL, "show", "--timestamp=unix", f"--property={names}", f"{unit}.service"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unavailable("systemctl", error.strerror or str(error)) from error
    if done.returncode:
        raise Unavailable("systemctl", " ".join(done.stderr.split()) or "does not answer")
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _moment(text: str) -> datetime | None:
    return (
        datetime.fromtimestamp(int(text[1:]), UTC)
        if text.startswith("@") and text[1:].isdecimal()
        else None
    )
