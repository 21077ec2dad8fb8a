"""What the command ``appliance`` must know of its host: ``/etc/fedcloud/appliance.yaml`` and ``appliance.env``.

Both may be missing: then the defaults count, and whoever needs the version of the images says so.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.admin.inventory import JOBS, Flow, flow_of
from appliance.admin.mounts import site_files
from appliance.admin.runtime import compose as composes
from appliance.core import files, hosts
from appliance.core.config import document, shell, yaml_file
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

PROFILES = ("egi", "2017", "private")
VERSION = "FEDCLOUD_VERSION"
RUNTIME_FILE = "/var/lib/fedcloud/runtime"
NATIVE = "native"
"""What the file holds on a host without containers; with containers there is no such file."""
VERSION_FILE = "/var/lib/fedcloud/version"
_LONGEST = 256
_SOCKET = Path("/run/docker.sock")
_NETWORK = "bridge"
_BRIDGE = "fedcloud"
_BRIDGES = re.compile(r"[a-z0-9]{1,10}")
"""With what follows it, no longer than the kernel takes (15 bytes)."""
_VARIABLES = (
    *(VERSION, "FEDCLOUD_NETWORK", "FEDCLOUD_CA_BUNDLE", "FEDCLOUD_ROOT", "FEDCLOUD_CPUS"),
    *("FEDCLOUD_BDII_LISTEN", "FEDCLOUD_BRIDGE"),
    *(
        "FEDCLOUD_BACKEND_ENDPOINT",
        "FEDCLOUD_MEMORY_BDII",
        "FEDCLOUD_MEMORY_BACKEND",
        "FEDCLOUD_MEMORY_JOB",
    ),
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Host:
    """The engine and the programs of this host, and how long its jobs may take."""

    socket: Path
    """Where the Docker engine listens."""
    compose: Path
    """The program of Compose, of whatever version; there may be none."""
    timeouts: Mapping[str, timedelta]
    """By the name of the job."""
    network: Path
    """The file by which the containers reach each other and the outside."""
    version: str
    """Of the images: the state directory says it, or ``appliance.env`` where no installer has been; else empty."""
    version_file: Path
    """Where the version lies."""
    mounts: Mapping[str, str]
    """Files that may be in one place or another, by the variable of the compose file."""
    settings_file: Path
    environment_file: Path
    compose_file: Path
    images_lock: Path
    """What a bundle says of its images; without one, there is no such file."""
    root: Path
    """Of the site; the compose file finds all mounts below it."""
    proxies: Mapping[str, str]
    """HTTP_PROXY and the like of ``appliance.env``, as far as they are set."""
    profile: str
    """Which federation this is: one of `PROFILES`."""
    flows: Mapping[Flow, bool]
    """Whether each flow is wanted here."""
    is_native: bool
    """Whether the programs run on the host itself, without containers."""
    restricts_egress: bool
    """Whether the public BDII is to connect to its resource BDIIs only, where its network allows that."""
    bridge: str
    """What the names of the public BDII's bridges begin with."""
    listen: tuple[str, int] | None
    """Address and port of the public BDII; None when it is on all addresses, port 2170."""
    warnings: tuple[Problem, ...]

    @property
    def engine_socket(self) -> Path | None:
        """Return where the engine listens; None on a host without containers: an engine there is somebody else's."""
        return None if self.is_native else self.socket

    def is_wanted(self, name: str) -> bool:
        """Return whether the flow of a job, a service or a unit is on; what belongs to all flows always is."""
        flow = flow_of(name)
        return flow is None or self.flows[flow]

    def off(self, name: str) -> str:
        """Return the line that says why a job, a service or a unit is not started; empty when it may be."""
        if self.is_wanted(name):
            return ""
        return f"{name}: not started: the flow {flow_of(name)} is off in {self.settings_file}"


def load(layout: Layout) -> Host:
    """Read the settings of a site's host; raises `ConfigurationError` with all that is wrong in both files."""
    path = layout.path("/etc/fedcloud/appliance.yaml")
    environment = site_files.environment(layout)
    variables = site_files.texts(environment)
    settings = Settings(
        document.read([path], yaml_file.parse) if path.exists() else document.Document(paths=[path])
    )
    profile = settings.choice("DEFAULT", "profile", default=PROFILES[0], allowed=PROFILES)
    timeouts = {
        job.name: timedelta(
            minutes=settings.integer("timeouts", job.name, default=_minutes(job.timeout), minimum=1)
        )
        for job in JOBS.values()
    }
    flows = {flow: settings.boolean("flows", flow.value, default=True) for flow in Flow}
    socket = settings.path("engine", "socket", default=_SOCKET)
    compose = _compose(settings)
    return Host(
        socket=socket,
        compose=compose,
        timeouts=timeouts,
        network=layout.path("/etc/fedcloud/networks")
        / f"{variables.get('FEDCLOUD_NETWORK') or _NETWORK}.yml",
        version=in_use(layout) or variables.get(VERSION, ""),
        version_file=layout.path(VERSION_FILE),
        mounts=site_files.choose(variables, layout),
        settings_file=path,
        environment_file=layout.path(site_files.ENVIRONMENT),
        compose_file=layout.path("/etc/fedcloud/docker-compose.yml"),
        images_lock=layout.path("/etc/fedcloud/images.lock"),
        root=layout.root,
        proxies={name: variables[name] for name in _PROXIES if variables.get(name)},
        profile=profile,
        flows=flows,
        is_native=is_native(layout),
        restricts_egress=settings.boolean("firewall", "bdii_egress", default=True),
        bridge=_bridge(environment),
        listen=_listen(environment),
        warnings=settings.finish()
        + _misspelt(environment, version=in_use(layout), place=layout.path(VERSION_FILE)),
    )


def is_native(layout: Layout) -> bool:
    """Return whether this host runs the programs without containers."""
    try:
        return layout.path(RUNTIME_FILE).read_text().strip() == NATIVE
    except OSError:
        return False


def in_use(layout: Layout) -> str:
    """Return the version of the images that is in use, as the state directory has it; empty without one."""
    try:
        return (
            files.read_regular(layout.path(VERSION_FILE), limit=_LONGEST)
            .decode(errors="replace")
            .strip()
        )
    except FileNotFoundError:
        return ""


def _compose(settings: Settings) -> Path:
    """Return the one program that everybody starts as Compose."""
    text = settings.text("engine", "compose")
    try:
        return composes.resolve(text)
    except ValueError:
        cause = f"{text!r} is neither a path nor {composes.PLUGIN!r}; leave it empty to have Compose found"
        settings.error("engine", "compose", cause)
        return composes.find()


def _listen(environment: document.Document) -> tuple[str, int] | None:
    """Return what FEDCLOUD_BDII_LISTEN says; raises `ConfigurationError`."""
    entry = environment.get(shell.SECTION, "FEDCLOUD_BDII_LISTEN")
    if entry is None or not entry.text:
        return None
    try:
        address, port = hosts.split_port(entry.text)
        return str(ipaddress.ip_address(address)), port
    except ValueError:
        cause = f"{entry.text!r} is not allowed; write ADDRESS:PORT, such as 192.0.2.10:2170 or [2001:db8::10]:2170"
        problem = Problem(entry.path, entry.line, "FEDCLOUD_BDII_LISTEN", cause)
        raise ConfigurationError([problem]) from None


def _bridge(environment: document.Document) -> str:
    """Return FEDCLOUD_BRIDGE, which the kernel's names of bridges begin with; raises `ConfigurationError`."""
    entry = environment.get(shell.SECTION, "FEDCLOUD_BRIDGE")
    if entry is None or not entry.text:
        return _BRIDGE
    if not _BRIDGES.fullmatch(entry.text):
        cause = f"{entry.text!r} is not allowed; write at most 10 lower-case letters and digits"
        raise ConfigurationError([Problem(entry.path, entry.line, "FEDCLOUD_BRIDGE", cause)])
    return entry.text


def _misspelt(environment: document.Document, *, version: str, place: Path) -> tuple[Problem, ...]:
    """Return warnings of settings of ours that there are not; others may be for networks/SITE.yml."""
    settings = Settings(environment)
    others = [name for name in site_files.texts(environment) if not name.startswith("FEDCLOUD_")]
    if version and settings.where(shell.SECTION, VERSION):
        settings.warn(
            shell.SECTION,
            VERSION,
            f"is ignored: the version in use is {version}, in {place}; remove this line",
        )
    settings.accept(shell.SECTION, [*_VARIABLES, *site_files.PLACES, *others])
    return settings.finish()


def require_files(host: Host) -> None:
    """Raise `ConfigurationError` when docker-compose would not find what it is told to read."""
    missing = [path for path in (host.compose_file, host.environment_file) if not path.is_file()]
    if missing:
        raise ConfigurationError(
            [Problem(path, 0, "", "does not exist; run scripts/install again") for path in missing]
        )
    if not host.version:
        cause = "does not exist, which says the version of the images; run scripts/install again"
        raise ConfigurationError([Problem(host.version_file, 0, "", cause)])
    if not host.network.is_file():
        cause = f"there is no {host.network}; write bridge, host, or the name of a copy of one of these two"
        raise ConfigurationError([Problem(host.environment_file, 0, "FEDCLOUD_NETWORK", cause)])


def compose_command(host: Host, *arguments: str) -> list[str]:
    """Return the command line of docker-compose for this appliance's project."""
    files = ["--env-file", str(host.environment_file), "-f", str(host.compose_file)]
    return [str(host.compose), *composes.quiet(host.compose), "-p", "fedcloud", *files, *arguments]


def compose_environment(host: Host) -> Mapping[str, str]:
    """Return the environment of docker-compose: nothing of the caller's, since a variable wins over the site's file."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/root",
        "DOCKER_HOST": f"unix://{host.socket}",
        **composes.ENVIRONMENT,
        **({VERSION: host.version} if host.version else {}),
        **host.mounts,
    }
    return (
        environment if host.root == Path("/") else environment | {"FEDCLOUD_ROOT": str(host.root)}
    )


def _minutes(span: timedelta) -> int:
    return round(span.total_seconds() / 60)
