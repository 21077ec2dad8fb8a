"""The settings of this host: ``appliance.yaml`` and ``appliance.env`` in ``/etc/fedcloud``.

Both files may be missing, in which case the defaults apply. `require_files` reports a missing file
where one is needed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.admin import egi, pings
from appliance.admin.egi import EgiServices
from appliance.admin.inventory import JOBS, Flow, flow_of
from appliance.admin.mounts import site_files
from appliance.admin.runtime import compose as composes
from appliance.admin.state import mark
from appliance.core import files, hosts
from appliance.core.config import document, shell, yaml_file
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

LOGS = ("files", "journal")
PROFILES = ("egi", "2017", "private")
VERSION = "FEDCLOUD_VERSION"
RUNTIME_FILE = "/var/lib/fedcloud/runtime"
NATIVE = "native"
"""The content of the runtime file on a host without containers; other hosts lack the file."""
VERSION_FILE = "/var/lib/fedcloud/version"
_LONGEST = 256
# The default of Docker's packages; /var/run is a link to /run.
DEFAULT_SOCKET = Path("/run/docker.sock")
_NETWORK = "bridge"
_BRIDGE = "fedcloud"
_BRIDGES = re.compile(r"[a-z0-9]{1,10}")
"""With the suffix ``-ldap`` the name must not exceed 15 bytes, the kernel's IFNAMSIZ."""
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
    """The settings of a host, with the paths that follow from its site's root."""

    socket: Path
    """The socket of the Docker engine."""
    compose: Path
    """The program of Compose, of any version; the file may be missing."""
    timeouts: Mapping[str, timedelta]
    """The time limit of each job, by its name."""
    network: Path
    """The compose file with the networks of the containers, chosen by FEDCLOUD_NETWORK."""
    version: str
    """The version of the images; empty if unknown.

    It comes from the state directory, or from ``appliance.env`` if no installer has run.
    """
    version_file: Path
    """The file in the state directory that holds the version."""
    mounts: Mapping[str, str]
    """Paths of the files that can be in several places, by variable of the compose file."""
    settings_file: Path
    environment_file: Path
    compose_file: Path
    images_lock: Path
    """The images of the installed bundle; missing if no bundle was installed."""
    root: Path
    """The root of the site; all mounts of the compose file are below it."""
    proxies: Mapping[str, str]
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY of ``appliance.env``, those that are set."""
    profile: str
    """The federation: one of `PROFILES`."""
    flows: Mapping[Flow, bool]
    """Whether each flow is on."""
    egi: EgiServices
    """The services of EGI that a check asks."""
    is_native: bool
    """Whether the programs run on the host itself, without containers."""
    restricts_egress: bool
    """Whether to restrict the site's BDII to connections to its resource BDIIs."""
    bridge: str
    """The prefix of the names of the site's BDII's bridges."""
    listen: tuple[str, int] | None
    """Address and port of the site's BDII; None for port 2170 of all addresses."""
    journal: Path | None
    """The compose file for containers that log to systemd's journal; None: logs are files."""
    pings: Mapping[str, Path]
    """The file with the URL that each job pings, by its name."""
    warnings: tuple[Problem, ...]

    @property
    def engine_socket(self) -> Path | None:
        """Return the socket of the engine; None on a host without containers.

        An engine on such a host serves other software.
        """
        return None if self.is_native else self.socket

    @property
    def is_beside(self) -> bool:
        """Return whether no installer has run: the site has upstream's programs, or none.

        ``appliance.yaml`` alone does not count: a site may have only the block ``egi`` in it.
        """
        installed = (
            *(self.compose_file, self.images_lock, self.version_file),
            Layout(self.root).path(mark.OF_HOST),
        )
        return not (self.is_native or any(path.exists() for path in installed))

    def is_wanted(self, name: str) -> bool:
        """Return whether the flow of a job, a service or a unit is on; one for all flows is."""
        flow = flow_of(name)
        return flow is None or self.flows[flow]

    def off(self, name: str) -> str:
        """Return why a job, a service or a unit is not started; empty if its flow is on."""
        if self.is_wanted(name):
            return ""
        return f"{name}: not started: the flow {flow_of(name)} is off in {self.settings_file}"


def load(layout: Layout) -> Host:
    """Read the settings of a site's host.

    Raises:
        ConfigurationError: A file has errors; all errors of the file are listed.

    """
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
    # EGI's catch-all uploads the images of most sites, so a site manages them only when asked.
    flows = {
        flow: settings.boolean("flows", flow.value, default=flow is not Flow.IMAGES)
        for flow in Flow
    }
    socket = settings.path("engine", "socket", default=DEFAULT_SOCKET)
    is_journal = settings.choice("DEFAULT", "logs", default="files", allowed=LOGS) == "journal"
    # Read here, so that a wrong value is reported with the others by finish().
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
        egi=egi.read(settings),
        is_native=is_native(layout),
        restricts_egress=settings.boolean("firewall", "bdii_egress", default=True),
        bridge=_bridge(environment),
        listen=_listen(environment),
        journal=layout.path("/etc/fedcloud/logs/journal.yml") if is_journal else None,
        pings=pings.read(settings),
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
    """Return the version of the images in use, from the state directory; empty without one."""
    try:
        return (
            files.read_regular(layout.path(VERSION_FILE), limit=_LONGEST)
            .decode(errors="replace")
            .strip()
        )
    except FileNotFoundError:
        return ""


def _compose(settings: Settings) -> Path:
    """Return the program that all callers start as Compose."""
    text = settings.text("engine", "compose")
    try:
        return composes.resolve(text)
    except ValueError:
        cause = (
            f"{text!r} is neither a path nor {composes.PLUGIN!r};"
            " leave it empty to have Compose found"
        )
        settings.error("engine", "compose", cause)
        return composes.find()


def _listen(environment: document.Document) -> tuple[str, int] | None:
    """Return address and port of FEDCLOUD_BDII_LISTEN; None if it is not set.

    Raises:
        ConfigurationError: The value is not ADDRESS:PORT.

    """
    entry = environment.get(shell.SECTION, "FEDCLOUD_BDII_LISTEN")
    if entry is None or not entry.text:
        return None
    try:
        address, port = hosts.split_port(entry.text)
        return str(ipaddress.ip_address(address)), port
    except ValueError:
        cause = (
            f"{entry.text!r} is not allowed;"
            " write ADDRESS:PORT, such as 192.0.2.10:2170 or [2001:db8::10]:2170"
        )
        problem = Problem(entry.path, entry.line, "FEDCLOUD_BDII_LISTEN", cause)
        raise ConfigurationError([problem]) from None


def _bridge(environment: document.Document) -> str:
    """Return FEDCLOUD_BRIDGE, the prefix of the names of bridges.

    Raises:
        ConfigurationError: The prefix is too long or has other characters.

    """
    entry = environment.get(shell.SECTION, "FEDCLOUD_BRIDGE")
    if entry is None or not entry.text:
        return _BRIDGE
    if not _BRIDGES.fullmatch(entry.text):
        cause = f"{entry.text!r} is not allowed; write at most 10 lower-case letters and digits"
        raise ConfigurationError([Problem(entry.path, entry.line, "FEDCLOUD_BRIDGE", cause)])
    return entry.text


def _misspelt(environment: document.Document, *, version: str, place: Path) -> tuple[Problem, ...]:
    """Return a warning for each unknown variable that begins with ``FEDCLOUD_``.

    Other variables may be used in a site's own networks/SITE.yml.
    """
    settings = Settings(environment)
    # Without these, accept() would report variables of a site's own network file as unknown.
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
    """Check that all files exist that docker-compose reads.

    Raises:
        ConfigurationError: Files are missing; each is listed.

    """
    needed = (host.compose_file, host.environment_file, *([host.journal] if host.journal else []))
    missing = [path for path in needed if not path.is_file()]
    if missing:
        raise ConfigurationError(
            [
                Problem(path, 0, "", "does not exist; run the bundle's install again")
                for path in missing
            ]
        )
    if not host.version:
        cause = (
            "does not exist, so the version of the images is not known; run the bundle's install"
            " again, or, if its directory is a volume that is not mounted, mount it: accounting"
            " must not begin without what it remembers"
        )
        raise ConfigurationError([Problem(host.version_file, 0, "", cause)])
    if not host.network.is_file():
        cause = (
            f"there is no {host.network};"
            " write bridge, host, or the name of a copy of one of these two"
        )
        raise ConfigurationError([Problem(host.environment_file, 0, "FEDCLOUD_NETWORK", cause)])


def compose_command(host: Host, *arguments: str) -> list[str]:
    """Return the command line of docker-compose for the project of the appliance."""
    files = ["--env-file", str(host.environment_file), "-f", str(host.compose_file)]
    return [str(host.compose), *composes.quiet(host.compose), "-p", "fedcloud", *files, *arguments]


def log_overrides(host: Host) -> list[str]:
    """Return the flags that make containers log to the journal, if they are to.

    They are for services and runs of jobs: a check reads what programs print.
    """
    return ["-f", str(host.journal)] if host.journal else []


def compose_environment(host: Host) -> Mapping[str, str]:
    """Return the environment of docker-compose.

    It contains nothing of the caller's environment, because Compose prefers a variable of its
    environment to the same one in ``appliance.env``.
    """
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        # Not the caller's HOME: its config.json could change proxies and credential helpers.
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
