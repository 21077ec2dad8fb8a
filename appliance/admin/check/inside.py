"""Checks of programs in their own containers, which see other files than the host.

docker-compose runs each program with ``--check-config --log-json``, or with ``--check-live`` if it
also tries what it contacts. The container has the mounts, the account and the environment of the
real one, but takes no name, port or lock of it. A program writes each finding, and each value that
is compared with other files, as a line of JSON; other lines are ignored.
"""

from __future__ import annotations

import enum
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from appliance.admin import settings
from appliance.admin.check.finding import identify
from appliance.admin.inventory import Job
from appliance.admin.mounts import site_files
from appliance.admin.run import credentials
from appliance.admin.runtime import compose, compose_output, native
from appliance.admin.settings import Host
from appliance.core.config.settings import Value
from appliance.core.run import finding, place
from appliance.core.run.errors import ExitStatus, Unavailable
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

_PROJECT = "fedcloud-check"
CHECK_LABEL = "eu.egi.fedcloud.check"
_PROVIDER = ("cloud-info-provider-service",)
PROGRAMS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "cloudbdii": (("bdii-update", "--serve", "-c", "/etc/bdii/bdii.conf"), _PROVIDER),
    "sitebdii": (("bdii-update", "--serve", "-c", "/etc/sitebdii/bdii.conf"),),
    "cloudkeeper-os": (("cloudkeeper-os",),),
    "caso": (("caso-extract",),),
    "ssm": (("ssmsend",),),
    "cloudkeeper": (("cloudkeeper", "sync"),),
    "cloud-info": ((*_PROVIDER, "--format", "glue21json", "--publisher", "file"),),
}
"""By service of the compose file, the programs that read its configuration."""
LIVE = frozenset(
    {
        *("bdii-update", "caso-extract", "cloud-info-provider-service", "cloudkeeper"),
        *("cloudkeeper-os", "ssmsend"),
    }
)
"""The programs that have ``--check-live``."""
WRITING = frozenset({"cloudkeeper-os"})
"""Those of them that have ``--write``."""
_LIMIT = 300
"""Time limit of one container in seconds; a check takes one or two, on an emulated machine 60."""
_BOOT_LIMIT = 420
"""The same where the program boots a server."""
_BEGUN, _ENDED = "fedcloud-check begun", "fedcloud-check ended"
# One container for all programs of a service: to start one takes a second. Markers on standard
# error, because docker-compose writes its own messages there, before and between.
_SCRIPT = f"""
set -f
for program in "$@"; do
  echo '{_BEGUN}' >&2
  $program --log-json >/dev/null
  echo "{_ENDED} $?" >&2
done
"""
_HINT = "dmesg(1) may have more information"
"""Begins the line that mount(8) prints after its reason."""
_WHERE = re.compile(r"(?P<path>/[^\s:]+)(?::(?P<line>\d+))?: (?P<text>.*)", re.DOTALL)


class Depth(enum.Enum):
    """How far the check of a program goes."""

    CONFIGURATION = "configuration"
    """Its files."""
    LIVE = "live"
    """What it contacts, too."""
    WRITE = "write"
    """It also creates and deletes something there."""
    SHOWN = "shown"
    """Its files, and all values that it has read in them."""

    def flags(self, program: str, extra: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the flags of a program for this depth; ``extra`` are for a live check."""
        if self is Depth.SHOWN:
            return ("--show-config",)
        if self is Depth.CONFIGURATION or program not in LIVE:
            return ("--check-config",)
        is_writing = self is Depth.WRITE and program in WRITING
        return ("--check-live", *(("--write",) if is_writing else ()), *extra)


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """The values that a program has read, without secrets; one without a path is a default."""

    program: str
    values: tuple[Value, ...]

    def get(self, section: str, option: str) -> str:
        """Return the text of an option; empty if it is not set and has no default."""
        one = self.find(section, option)
        return one.text if one else ""

    def find(self, section: str, option: str) -> Value | None:
        """Return the value of an option; None if the program has not read it."""
        found = [one for one in self.values if (one.section, one.option) == (section, option)]
        return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """The findings and values that the programs of one container have reported."""

    findings: tuple[Finding, ...]
    values: tuple[Value, ...]
    settings: tuple[ProgramSettings, ...] = ()
    """All values that the programs have read, for `Depth.SHOWN`."""

    @property
    def is_usable(self) -> bool:
        """Return whether the programs would run with this configuration."""
        return not any(found.is_error for found in self.findings)


def ask(
    name: str,
    service: str,
    host: Host,
    layout: Layout,
    *,
    mounts: Sequence[str] = (),
    depth: Depth = Depth.CONFIGURATION,
    extra: Sequence[str] = (),
) -> CheckAnswer:
    """Check a job or service in its own container; ``mounts`` are ``SOURCE:TARGET:ro``.

    ``extra`` are further flags of its program that has ``--check-live``, without blanks.

    Raises:
        Unavailable: The container cannot be run: no engine, or a mount without its source.

    """
    if host.is_native or host.is_beside:
        return _ask_natively(name, service, host, layout, mounts=mounts, depth=depth, extra=extra)
    programs = [" ".join((*words, *depth.flags(words[0], extra))) for words in PROGRAMS[service]]
    flags = [word for mount in mounts for word in ("-v", mount)]
    if any(mount.endswith(f":{credentials.PLACE}:ro") for mount in mounts):
        flags += ["-e", f"{credentials.VARIABLE}={credentials.PLACE}"]
    # No --use-aliases and no ports: a check takes neither names nor ports of the running service.
    words = ["run", "--rm", "-T", "--no-deps", "--label", f"{CHECK_LABEL}={name}", *flags]
    command = settings.compose_command(host, *words, service, "sh", "-c", _SCRIPT, "sh", *programs)
    if _has_no_network_of_its_own(service, host):
        # compose_command() has set the project of the services.
        command[command.index("-p") + 1] = _PROJECT
    try:
        lines, _ = _run(name, command, compose_output.environment(host), limit=_limit(extra))
    except OSError as error:
        raise compose.not_started(host.compose, error) from error
    if _BEGUN not in lines:
        raise compose_output.failure(name, lines)
    return read(name, lines, [words[0] for words in PROGRAMS[service]])


def _has_no_network_of_its_own(service: str, host: Host) -> bool:
    """Return whether a service has a ``network_mode``, such as the network of the host.

    `docker-compose run` of 1.29 links the new container to the running ones of the service, which
    the engine rejects with a ``network_mode``. In another project no container runs. Services with
    networks stay in the project, because another one would create the networks again.
    """
    return "network_mode" in network_services(host).get(service, {})


def networks(host: Host) -> frozenset[str]:
    """Return the networks that the services use, by their names in the compose file."""
    services = network_services(host).values()
    return frozenset(str(name) for service in services for name in service.get("networks") or ())


def network_services(host: Host) -> Mapping[str, Mapping[str, Any]]:
    """Return the services of the file of networks; none of a file that Compose will reject."""
    import yaml  # noqa: PLC0415  start-up is a cost

    try:
        services = yaml.safe_load(host.network.read_bytes())["services"]
        return {name: one for name, one in services.items() if isinstance(one, dict)}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}


def _ask_natively(
    name: str,
    service: str,
    host: Host,
    layout: Layout,
    *,
    mounts: Sequence[str],
    depth: Depth,
    extra: Sequence[str],
) -> CheckAnswer:
    """Check the programs of a host without containers, each as its job or service runs."""
    named = site_files.variables(layout).get("FEDCLOUD_CA_BUNDLE", "")
    environment = native.environment(host.proxies, named_authorities=named, root=layout.root)
    if host.is_beside:
        del environment[place.NATIVE]  # no job is there for the commands that messages name
    lines: list[str] = []
    for program in PROGRAMS[service]:
        job = Job(name, None, service, program, log="", cron="", timeout=timedelta(seconds=_LIMIT))
        flags = (*depth.flags(program[0], extra), "--log-json")
        command = (
            _beside(job, flags)
            if host.is_beside
            else native.command(job, layout, mounts=mounts, arguments=flags)
        )
        written, status = _run(name, command, environment, limit=_limit(extra))
        lines += [_BEGUN, *written, f"{_ENDED} {status}"]
    return read(name, lines, [program[0] for program in PROGRAMS[service]])


def _beside(job: Job, flags: Sequence[str]) -> list[str]:
    """Return the command line of a program in the environment that this one runs in.

    Raises:
        Unavailable: The program is not in it.

    """
    program = Path(sys.executable).with_name(job.command[0])
    if not program.exists():
        extra = {"ssm": "ssm", "caso": "caso"}.get(job.service, "cloud-info")
        remedy = f"install the extra {extra} into this environment"
        raise Unavailable(program, "is not installed", remedy)
    return [str(program), *job.command[1:], *flags]


def _limit(extra: Sequence[str]) -> int:
    """Return the seconds for a check; a program with ``--write`` among its flags boots a server."""
    return _BOOT_LIMIT if "--write" in extra else _LIMIT


def _run(
    name: str, command: Sequence[str], environment: Mapping[str, str], *, limit: int
) -> tuple[list[str], int]:
    """Return the lines of a command's standard error, and its exit status."""
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            name, f"its check did not end within {limit} s", "look at the load of this host"
        ) from None
    return done.stderr.decode(errors="replace").splitlines(), done.returncode


def read(name: str, lines: Sequence[str], programs: Sequence[str] = ()) -> CheckAnswer:
    """Return the findings and values in the output of a check of ``programs``."""
    findings: list[Finding] = []
    values: list[Value] = []
    settings_read: list[ProgramSettings] = []
    for program, part in itertools.zip_longest(programs, _parts(lines), fillvalue=None):
        if part is None:
            continue  # the container ended before this program
        found, read_values = _of_program(name, part)
        findings += found
        values += read_values
        of_program = tuple(_values("setting", part))
        settings_read.append(ProgramSettings(str(program or name), of_program))
    return CheckAnswer(tuple(dict.fromkeys(findings)), tuple(values), tuple(settings_read))


def _parts(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the lines of each program; the last one has its exit status."""
    part: list[str] = []
    for line in lines:
        if line == _BEGUN:
            part = []
        else:
            part.append(line)
            if line.startswith(_ENDED):
                yield part


def _of_program(name: str, lines: Sequence[str]) -> tuple[list[Finding], list[Value]]:
    findings = [found for line in lines[:-1] if (found := _finding(name, _entry(line)))]
    status = lines[-1].removeprefix(_ENDED).strip()
    if status != "0" and not any(found.is_error for found in findings):
        findings.append(_unexplained(name, status, lines[:-1]))
    return findings, list(_values("value", lines))


def _values(key: str, lines: Sequence[str]) -> Iterator[Value]:
    """Yield the values that a program has printed under a key."""
    for line in lines:
        value = _entry(line).get(key)
        if isinstance(value, dict):
            path, number = Path(str(value["path"])), int(value["line"])
            yield Value(value["section"], value["option"], value["text"], path, number)


def _entry(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _finding(name: str, entry: Mapping[str, Any]) -> Finding | None:
    """Return the finding in a line of a program; None for a log entry below a warning."""
    if isinstance(made := entry.get("finding"), dict):
        return replace(finding.of_json(made), program=name)
    if entry.get("level") not in ("WARNING", "ERROR", "CRITICAL"):
        return None
    if isinstance(problem := entry.get("problem"), dict):
        option, text = str(problem["option"]), str(problem["text"])
        path, line, is_error = str(problem["path"]), int(problem["line"]), bool(problem["is_fatal"])
        return Finding(path, line, option, text, identify(option, text), name, is_error)
    message = str(entry.get("message", ""))
    where = _WHERE.fullmatch(message)
    path, line, text = (
        (where["path"], int(where["line"] or 0), where["text"]) if where else ("", 0, message)
    )
    is_error = entry["level"] != "WARNING"
    return Finding(path, line, "", text, identify("", message), name, is_error)


def _unexplained(name: str, status: str, lines: Sequence[str]) -> Finding:
    """Return the finding for a program that failed without reporting one."""
    said = (line.strip() for line in reversed(lines) if line.strip() and line[0] != "{")
    words = next((line for line in said if not line.startswith(_HINT)), "")
    kind = "is broken" if status == str(int(ExitStatus.BUG)) else f"ended with exit status {status}"
    return Finding("", 0, "", f"the check {kind}{f': {words}' if words else ''}", "C21", name)
