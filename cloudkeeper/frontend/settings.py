"""cloudkeeper.yml as cloudkeeper 1.7.1 reads it, each option with its flag on the command line, which wins.

The backend that the environment names wins over the file's: ``CLOUDKEEPER_BACKEND_ENDPOINT``, which
the compose file sets, or ``BACKEND_PORT_50051_TCP_ADDR`` and ``_PORT``, as containers are linked.
With ``authentication``, which is for TCP, an endpoint of the file wins over a socket of the
environment. Also known: ``image-list`` and ``verify-image-list`` of 2.0. Our own: ``crl-policy``.
Without any option for lists, ``/etc/cloudkeeper/image-lists.conf`` is read.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.core import hosts
from appliance.core.config import document
from appliance.core.config.settings import Settings
from appliance.core.run.errors import Problem
from appliance.core.run.layout import Layout
from cloudkeeper.frontend import addresses
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.model import Format

_TOP = "cloudkeeper"
_LEVELS = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
    "UNKNOWN": logging.CRITICAL,
}
_SOCKET = re.compile(r"unix:(?://)?/[^/].*")
_SOCKET_PATH = "/run/cloudkeeper/backend.sock"
_VALUES = {
    "--image-lists-file": "image-lists-file",
    "--ca-dir": "ca-dir",
    "--crl-policy": "crl-policy",
    "--certificate": "certificate",
    "--key": "key",
    "--image-dir": "image-dir",
    "--lock-file": "lock-file",
    "--qemu-img-binary": "external-tools.binaries.qemu-img",
    "--external-tools-execution-timeout": "external-tools.execution-timeout",
    "--backend-endpoint": "backend.endpoint",
    "--backend-certificate": "backend.certificate",
    "--logging-level": "logging.level",
    "--logging-file": "logging.file",
    "--nginx-binary": "external-tools.binaries.nginx",
    "--nginx-runtime-dir": "nginx.runtime-dir",
    "--nginx-error-log-file": "nginx.error-log-file",
    "--nginx-access-log-file": "nginx.access-log-file",
    "--nginx-pid-file": "nginx.pid-file",
    "--nginx-ip-address": "nginx.ip-address",
    "--nginx-port": "nginx.port",
    "--nginx-proxy-ip-address": "nginx.proxy.ip-address",
    "--nginx-proxy-port": "nginx.proxy.port",
}
_SWITCHES = {
    "--authentication": "authentication",
    "--remote-mode": "remote-mode",
    "--verify-image-list": "verify-image-list",
    "--nginx-proxy-ssl": "nginx.proxy.ssl",
}
_LISTS = {"--image-lists": "image-lists", "--image-list": "image-lists", "--formats": "formats"}


@dataclass(frozen=True, slots=True)
class FrontendSettings:
    """What `cloudkeeper sync` needs."""

    lists: tuple[Address, ...]
    list_problems: tuple[Problem, ...]
    """Lists that are written wrongly; the others are good."""
    ca_dir: Path
    crl_policy: str
    """A word of `CRLPolicy`."""
    image_dir: Path
    lock_file: Path
    formats: tuple[Format, ...]
    qemu_img: Path
    patience: timedelta
    """For one call of qemu-img."""
    endpoint: str
    """``unix:///PATH`` or ``HOST:PORT``."""
    certificates: tuple[Path, Path, Path] | None
    """Own certificate and key, and the backend's certificate; None: in clear."""
    log_file: Path | None
    """Log file beside standard error; None: none."""
    log_level: int
    warnings: tuple[Problem, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option; what nginx would need is taken without a word in the help."""
    made = parser.add_argument_group("options of cloudkeeper.yml, which these override")
    for flag, option in _VALUES.items():
        words = argparse.SUPPRESS if "nginx" in flag else option
        made.add_argument(flag, dest=_dest(option), metavar="VALUE", help=words)
    for flag, option in _SWITCHES.items():
        words = argparse.SUPPRESS if "nginx" in flag else option
        made.add_argument(
            flag, dest=_dest(option), action=argparse.BooleanOptionalAction, help=words
        )
    for flag, option in _LISTS.items():
        made.add_argument(flag, dest=_dest(option), nargs="+", metavar="VALUE", help=option)


def load(arguments: argparse.Namespace, layout: Layout) -> FrontendSettings:
    """Read configuration and command line; raises `ConfigurationError` with everything that is wrong in them."""
    from appliance.core.config import yaml_file  # noqa: PLC0415  start-up is a cost

    config: Path | None = arguments.config
    candidates = [layout.path("/etc/cloudkeeper/cloudkeeper.yml")]
    if layout.root == Path("/"):
        candidates.insert(0, Path("~/.cloudkeeper/cloudkeeper.yml").expanduser())
    read = document.read(
        [config] if config else document.first_existing(candidates), yaml_file.parse
    )
    flags = vars(arguments)
    given = {
        option: flags[_dest(option)]
        for option in (*_VALUES.values(), *_SWITCHES.values(), *_LISTS.values())
    }
    texts = {
        _place(option): ",".join(value) if isinstance(value, list) else str(value)
        for option, value in given.items()
        if value is not None
    }
    backend = _backend_of(os.environ)
    is_settled = _SOCKET.fullmatch(backend) and _names_tls_backend(read, texts)
    if backend and not is_settled:
        texts.setdefault(_place("backend.endpoint"), backend)
    return _FrontendReader(Settings(read, overrides=texts), layout).settings()


def _names_tls_backend(read: document.Document, texts: dict[tuple[str, str], str]) -> bool:
    """Return whether file or flags ask for TLS and name a backend for it."""
    found = Settings(read, overrides=texts)
    is_named = found.where(*_place("backend.endpoint")) is not None
    return is_named and found.boolean(_TOP, "authentication", default=False)


def _backend_of(environment: Mapping[str, str]) -> str:
    """Return the backend that the compose file names, or that a container is linked to by two variables."""
    if named := environment.get("CLOUDKEEPER_BACKEND_ENDPOINT", ""):
        return named
    address, port = (
        environment.get(f"BACKEND_PORT_50051_TCP_{name}", "") for name in ("ADDR", "PORT")
    )
    if not (address and port):
        return ""
    return hosts.join_port(address, int(port)) if port.isdecimal() else f"{address}:{port}"


class _FrontendReader:
    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._settings = settings
        self._layout = layout

    def settings(self) -> FrontendSettings:
        found, layout = self._settings, self._layout
        self._refuse_what_is_not_done()
        lists, problems = self._lists()
        log_file, log_level = self._log()
        spool, lock = "/var/spool/cloudkeeper/images", "/var/lock/cloudkeeper/cloudkeeper.lock"
        policies = ["warn", "require", "off"]
        return FrontendSettings(
            lists=tuple(lists),
            list_problems=tuple(problems),
            ca_dir=found.path(_TOP, "ca-dir", default=layout.grid_certificates, is_directory=True),
            crl_policy=found.choice(_TOP, "crl-policy", default="warn", allowed=policies),
            image_dir=found.path(_TOP, "image-dir", default=layout.path(spool), is_directory=True),
            lock_file=found.path(_TOP, "lock-file", default=layout.path(lock)),
            formats=self._formats(),
            qemu_img=found.path(
                *_place("external-tools.binaries.qemu-img"), default=Path("/usr/bin/qemu-img")
            ),
            patience=timedelta(
                seconds=found.integer(
                    *_place("external-tools.execution-timeout"), default=600, minimum=1
                )
            ),
            endpoint=(endpoint := self._endpoint()),
            certificates=self._certificates(is_socket=_SOCKET.fullmatch(endpoint) is not None),
            log_file=log_file,
            log_level=log_level,
            warnings=found.finish(),
        )

    def _lists(self) -> tuple[list[Address], list[Problem]]:
        found = self._settings
        default = self._layout.path("/etc/cloudkeeper/image-lists.conf")
        alias = (_TOP, "image-list")
        entry = found.where(_TOP, "image-lists", aliases=[alias])
        if entry is None:
            file = found.file(_TOP, "image-lists-file", default=default)
            return addresses.read_file(file) if file and file.is_file() else ([], [])
        if found.where(_TOP, "image-lists-file"):
            found.error(
                _TOP,
                "image-lists-file",
                "cannot be used together with image-lists; keep one of them",
            )
        urls = found.words(_TOP, "image-lists", aliases=[alias])
        if not urls:
            cause = f"names no image list; write URLs, with commas between{addresses.OR_OFF}"
            return [], [Problem(entry.path, entry.line, "image-lists", cause)]
        return addresses.read(
            [(url, entry.line) for url in urls], path=entry.path, option="image-lists"
        )

    def _formats(self) -> tuple[Format, ...]:
        words = self._settings.words(_TOP, "formats", default=["qcow2"])
        if not words:
            self._settings.error(
                _TOP, "formats", "must name a format that the cloud takes, for example qcow2"
            )
        for word in words:
            if word.lower() not in list(Format):
                allowed = ", ".join(Format)
                self._settings.error(
                    _TOP, "formats", f"{word!r} is not allowed; write one or more of {allowed}"
                )
        return tuple(
            dict.fromkeys(Format(word.lower()) for word in words if word.lower() in list(Format))
        )

    def _endpoint(self) -> str:
        place = _place("backend.endpoint")
        endpoint = self._settings.text(*place, default=f"unix://{self._layout.path(_SOCKET_PATH)}")
        has_tls = self._settings.boolean(_TOP, "authentication", default=False)
        if _SOCKET.fullmatch(endpoint):
            if has_tls:
                words = (
                    f"true: has no effect with backend.endpoint {endpoint}: TLS is for HOST:PORT"
                )
                self._settings.warn(_TOP, "authentication", words)
            return endpoint
        try:
            hosts.split_port(endpoint)
        except ValueError:
            self._settings.error(
                *place, f"{endpoint!r} is not allowed; write unix:///PATH or HOST:PORT"
            )
            return endpoint
        if not has_tls:
            words = f"{endpoint} is used without TLS: nobody knows who answers there; set authentication: true"
            self._settings.warn(*place, words)
        return endpoint

    def _certificates(self, *, is_socket: bool) -> tuple[Path, Path, Path] | None:
        found, grid = self._settings, self._layout.path("/etc/grid-security")
        is_wanted = found.boolean(_TOP, "authentication", default=False) and not is_socket
        read = found.file if is_wanted else found.path
        files = [
            read(_TOP, "certificate", default=grid / "hostcert.pem"),
            read(_TOP, "key", default=grid / "hostkey.pem"),
            read(*_place("backend.certificate"), default=grid / "backendcert.pem"),
        ]
        certificate, key, backend = (path or Path() for path in files)
        return (certificate, key, backend) if is_wanted else None

    def _log(self) -> tuple[Path | None, int]:
        found = self._settings
        default = self._layout.path("/var/log/cloudkeeper/cloudkeeper.log")
        entry = found.where(*_place("logging.file"))
        file = found.path(*_place("logging.file"), default=default)
        level = _LEVELS[found.choice(*_place("logging.level"), default="ERROR", allowed=_LEVELS)]
        if found.boolean(_TOP, "debug", default=False):
            level = logging.DEBUG
        return None if entry and not entry.text else file, level

    def _refuse_what_is_not_done(self) -> None:
        found = self._settings
        if found.boolean(_TOP, "remote-mode", default=False):
            words = "images are not served over HTTP by this version; share image-dir with the backend, write false"
            found.error(_TOP, "remote-mode", words)
        if not found.boolean(_TOP, "verify-image-list", default=True):
            found.error(_TOP, "verify-image-list", "lists are always verified; write true")
        for option in (*_VALUES.values(), *_SWITCHES.values()):
            section, name = _place(option)
            found.accept(section, [name] if "nginx" in option else [])


def _dest(option: str) -> str:
    return f"option_{option}"


def _place(option: str) -> tuple[str, str]:
    """Return section and name of an option that is written with dots."""
    section, _, name = f"{_TOP}.{option}".rpartition(".")
    return section, name
