"""The administrator's login: a cloud of a ``clouds.yaml``, or a file of variables (openrc).

Both are named on the command line. A file below ``/etc`` is refused: an administrator's password
does not stay on this host.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import hosts
from appliance.core.config import document, shell, yaml_file
from appliance.core.config.document import Setting
from appliance.core.run import log
from appliance.core.run.errors import ConfigurationError, Problem, UsageError
from appliance.core.suggestion import did_you_mean

_FLAGS = "--os-cloud NAME --clouds FILE, or --openrc FILE"
_SECRETS = ("password", "application_credential_secret", "client_secret", "token", "passcode")
_OF_CLOUD = frozenset({"auth_type", "region_name", "interface", "cacert", "verify"})


@dataclass(frozen=True, slots=True)
class AdministratorLogin:
    """The login, as it goes to the program that sends the requests."""

    auth_type: str
    auth_url: str
    options: Mapping[str, str] = field(repr=False)
    region: str = ""
    interface: str = "public"
    authorities: str = field(default="", repr=False)
    """The authorities of the cloud's certificates, PEM; empty for those of the system."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name the login."""
    parser.add_argument(
        "--os-cloud",
        default=os.environ.get("OS_CLOUD", ""),
        metavar="NAME",
        help="cloud of --clouds, with an administrator's account (default: $OS_CLOUD)",
    )
    parser.add_argument("--clouds", type=Path, metavar="FILE", help="clouds.yaml with that cloud")
    parser.add_argument(
        "--openrc", type=Path, metavar="FILE", help="file with an administrator's OS_… variables"
    )


def read(arguments: argparse.Namespace) -> AdministratorLogin:
    """Return the login.

    Raises:
        UsageError: The command line names none, or a file of this host's configuration.
        ConfigurationError: The file is wrong.

    """
    path: Path | None = arguments.openrc or arguments.clouds
    if path is None or (arguments.openrc and arguments.clouds):
        raise UsageError("the administrator's login", "is not given, or twice", f"give {_FLAGS}")
    if path.absolute().resolve().is_relative_to("/etc"):
        cause = "is in /etc, where an administrator's password must not stay"
        raise UsageError(path, cause, "name a file elsewhere, such as one on a memory stick")
    if path.is_file() and path.stat().st_mode & 0o004:
        raise UsageError(path, "every user of this host can read it", f"chmod o-r {path}")
    found = _of_openrc(path) if arguments.openrc else _of_clouds(path, arguments.os_cloud)
    return _login(found, path)


def _of_openrc(path: Path) -> dict[str, Setting]:
    read_in = shell.parse(path, document.read_text(path)).sections.get(shell.SECTION, {})
    return {
        name.removeprefix("OS_").lower(): entry
        for name, entry in read_in.items()
        if name.startswith("OS_")
    }


def _of_clouds(path: Path, name: str) -> dict[str, Setting]:
    tree = yaml_file.parse(path, document.read_text(path))
    known = tree.children.get("clouds", {})
    if name not in known:
        hint = did_you_mean(name, known, otherwise=f"there are {', '.join(known) or 'none'}")
        raise UsageError("--os-cloud", f"{path} has no cloud {name!r}", hint)
    own = tree.sections.get(f"clouds.{name}", {})
    account = tree.sections.get(f"clouds.{name}.auth", {})
    return {key: entry for key, entry in own.items() if key in _OF_CLOUD} | dict(account)


def _login(found: Mapping[str, Setting], path: Path) -> AdministratorLogin:
    texts = {name: entry.text for name, entry in found.items() if entry.text}
    for name in _SECRETS:
        log.hide(texts.get(name))
    url = texts.pop("auth_url", "").rstrip("/")
    if not url or hosts.url_fault(url):
        entry = found.get("auth_url")
        cause = "must be set: Keystone's URL, https://HOST:5000/v3"
        raise ConfigurationError([Problem(path, entry.line if entry else 0, "auth_url", cause)])
    kind = texts.pop("auth_type", "") or _usual(texts)
    if kind in ("v3password", "password") and "password" not in texts:
        texts["password"] = _asked(texts.get("username", "the administrator"), path)
        log.hide(texts["password"])
    authorities = _authorities(texts, found, path)
    rest = ("region_name", "interface", "cacert", "verify", "insecure", "identity_api_version")
    return AdministratorLogin(
        "v3password" if kind == "password" else kind,
        url if url.endswith("/v3") else f"{url}/v3",
        {name: text for name, text in texts.items() if name not in rest},
        region=texts.get("region_name", ""),
        interface=texts.get("interface", "public").removesuffix("URL"),
        authorities=authorities,
    )


def _usual(texts: Mapping[str, str]) -> str:
    return "v3applicationcredential" if "application_credential_id" in texts else "v3password"


def _asked(name: str, path: Path) -> str:
    if not sys.stdin.isatty():
        cause = "must be set, because there is no terminal to ask for it"
        raise ConfigurationError([Problem(path, 0, "password", cause)])
    return getpass.getpass(f"Password of {name}: ")


def _authorities(texts: Mapping[str, str], found: Mapping[str, Setting], path: Path) -> str:
    """Return the authorities that the file names."""
    for name, refused in (("verify", "false"), ("insecure", "true")):
        if texts.get(name, "").lower() == refused:
            cause = f"{refused}: TLS is always verified; remove it, and name cacert"
            raise ConfigurationError([Problem(path, found[name].line, name, cause)])
    named = texts.get("cacert", "")
    return document.read_text(Path(named).expanduser()) if named else ""
