"""What the cloud offers an account: regions, and projects with their VOs.

This host has no client of OpenStack. The verb `offers` of the program `caso` asks the cloud, in its
container, or on a host without containers as its job runs. The account is in no file of the site
yet, so the program gets it in a file on tmpfs, which lasts for the question.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from appliance.admin import account, settings
from appliance.admin.configure import edit
from appliance.admin.images import needed
from appliance.admin.inventory import Job
from appliance.admin.run import hostkey
from appliance.admin.runtime import compose, compose_output, native
from appliance.admin.runtime.engine import Engine
from appliance.admin.settings import Host
from appliance.core import files
from appliance.core.run import log
from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.run.layout import Layout

_INSIDE = "/etc/caso/offers.conf"
_NATIVE = "/etc/caso/caso.conf"
"""The target of a bind mount in a namespace of its own, so it must exist."""
_PROGRAM = ("caso", "offers", "--config-file")
_LIMIT = 120
"""Time limit in seconds. Starting the container takes two; a cloud that hangs is given up."""
_LARGEST = 1 << 22
"""Bytes of an answer; a project takes 150."""
_SUBJECT = "the cloud"


class UntrustedCloud(Unavailable):
    """The authorities of the answer do not verify the cloud's certificate."""


@dataclass(frozen=True, slots=True)
class CloudLogin:
    """The account that asks, as it was answered."""

    keystone: str
    name: str
    password: str
    authorities: str


@dataclass(frozen=True, slots=True)
class CloudProject:
    """A project in which the account has a role."""

    id: str
    name: str
    vo: str
    """Its VO by a property in Keystone; empty if none names one."""
    fault: str = ""
    """Why its VO is unknown, if its properties differ."""


@dataclass(frozen=True, slots=True)
class Offers:
    """What the cloud offers an account; both are empty without an answer."""

    regions: tuple[str, ...] = ()
    projects: tuple[CloudProject, ...] = ()


def ask(login: CloudLogin, host: Host, layout: Layout) -> Offers:
    """Ask the cloud.

    Raises:
        AccessDenied: Keystone refuses the account.
        UntrustedCloud: The authorities do not verify the cloud's certificate.
        Unavailable: The cloud or the program does not answer.

    """
    job = Job("configure", None, "caso", _PROGRAM, log="", cron="", timeout=timedelta())
    with _staged(login, layout) as file:
        if host.is_native:
            target = str(layout.path(_NATIVE))
            command = native.command(job, layout, mounts=[f"{file}:{target}"], arguments=[target])
            environment = native.environment(
                host.proxies, named_authorities=login.authorities, root=layout.root
            )
        else:
            command = _in_container(host, file)
            # Compose prefers its environment to appliance.env, which has the earlier answer.
            environment = compose_output.environment(host) | {
                "FEDCLOUD_CA_BUNDLE": login.authorities
            }
        return read(*_run(command, environment))


def _in_container(host: Host, file: Path) -> list[str]:
    settings.require_files(host)
    compose.require(host.compose)
    with Engine(host.socket) as engine:
        needed.require(engine, host, ["caso"])
    words = ["run", "--rm", "-T", "--no-deps", "-v", f"{file}:{_INSIDE}:ro", "caso"]
    return settings.compose_command(host, *words, *_PROGRAM, _INSIDE)


@contextlib.contextmanager
def _staged(login: CloudLogin, layout: Layout) -> Iterator[Path]:
    """Have the account in a file on tmpfs that only the program's account can read."""
    path = hostkey.staged_path("configure", layout)
    text = "[keystone_auth]\nauth_type = v3password\nuser_domain_name = Default\n"
    for option, value in (
        ("auth_url", login.keystone),
        ("username", login.name),
        ("password", login.password),
    ):
        text += f"{option} = {edit.oslo_value(value)}\n"
    files.make_directory(path.parent, mode=0o700)
    path.unlink(missing_ok=True)  # of a killed run
    try:
        files.write_new(path, text.encode(errors="surrogateescape"), mode=0o400)
        os.chown(path, account.ID, account.ID)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _run(command: list[str], environment: Mapping[str, str]) -> tuple[str, str]:
    """Return standard output and standard error of the program."""
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(_SUBJECT, f"no answer within {_LIMIT} s") from None
    except OSError as error:
        raise Unavailable(command[0], error.strerror or str(error)) from error
    return (
        done.stdout[:_LARGEST].decode(errors="replace"),
        done.stderr[-_LARGEST:].decode(errors="replace"),
    )


def read(output: str, errors: str) -> Offers:
    """Return the offers in the output of the program.

    Raises:
        AccessDenied: Keystone refuses the account.
        UntrustedCloud: The authorities do not verify the cloud's certificate.
        Unavailable: The cloud did not answer, or the program failed.

    """
    try:
        found: dict[str, Any] = json.loads(output)
        if failure := found.get("failure"):
            kind: type[Unavailable] = AccessDenied if failure["is_denied"] else Unavailable
            kind = UntrustedCloud if failure["is_untrusted"] else kind
            raise kind(log.one_line(str(failure["subject"])), log.one_line(str(failure["cause"])))
        return Offers(
            regions=tuple(str(name) for name in found["regions"]),
            projects=tuple(
                CloudProject(*(str(one[key]) for key in ("id", "name", "vo", "fault")))
                for one in found["projects"]
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        said = [line for line in errors.splitlines() if not compose_output.is_noise(line)]
        if own := [line for line in said if line.startswith(f"{_PROGRAM[0]}: ")]:
            raise Unavailable(_SUBJECT, log.one_line(own[-1])) from None
        raise compose_output.failure(_SUBJECT, said) from None
