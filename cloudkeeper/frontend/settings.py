"""cloudkeeper.yml as cloudkeeper 1.7.1 reads it; each option has a flag, which wins.

A backend in the environment wins over the file's: ``CLOUDKEEPER_BACKEND_ENDPOINT``, which the
compose file sets, or ``BACKEND_PORT_50051_TCP_ADDR`` and ``_PORT``, which a link between containers
sets. With ``authentication``, which concerns TCP only, an endpoint of the file wins over a socket
of the environment; so does ``direct``. ``image-list`` and ``verify-image-list`` of 2.0 are known,
too; ``crl-policy`` is our own. Without any option for lists,
``/etc/cloudkeeper/image-lists.conf`` is read.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from appliance.core import hosts
from appliance.core.config import document
from appliance.core.config.settings import Settings, note_endpoint
from appliance.core.registry import account as registry_account
from appliance.core.run.errors import Problem
from appliance.core.run.layout import Layout
from cloudkeeper.frontend import addresses, amounts, source_settings
from cloudkeeper.frontend.addresses import Address
from cloudkeeper.frontend.bandwidth import LEAST_RATE
from cloudkeeper.frontend.ignored import IGNORED
from cloudkeeper.frontend.remote_place import RemotePlace
from cloudkeeper.frontend.source_settings import RegistrySettings
from cloudkeeper.model import Format

if TYPE_CHECKING:  # start-up is a cost
    from cloudkeeper.frontend.direct_mode import DirectBackend

_Source = TypeVar("_Source", Address, RegistrySettings)

FILE = "/etc/cloudkeeper/cloudkeeper.yml"
_TOP = "cloudkeeper"
# Ruby's words: 1.7.1 is written in it.
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
# Bytes: of a quota, because a smaller one would hold no image.
_LEAST_QUOTA = 2**30
_LOOPBACK = "127.0.0.1"
# Addresses that mean another host elsewhere.
_NOWHERE = (_LOOPBACK, "::1", "0.0.0.0", "::")  # noqa: S104  compared, not listened on
DIRECT = "direct"
"""The endpoint of a backend in this process."""
_BACKEND_FILE = "/etc/cloudkeeper/cloudkeeper-os.conf"
_POLICIES = ("warn", "require", "off")
_ENDED = ("keep", "hide", "remove")
# Flags that replace the configured sources, so that a run with one does not know them all.
_SOURCES = ("image-lists", "image-lists-file", "sources-file")
# Options with one value: the help of the flag, and the default.
_VALUES = {
    "image-lists-file": (
        "file with one URL of an image list a line",
        "/etc/cloudkeeper/image-lists.conf",
    ),
    "sources-file": (
        "YAML file of registries and named lists",
        "/etc/cloudkeeper/sources.yaml",
    ),
    "accounts-file": (
        "file of accounts of registries, one HOST USER:SECRET a line",
        "/etc/cloudkeeper/registry.auth",
    ),
    "ca-dir": ("directory of CA certificates and CRLs", "/etc/grid-security/certificates"),
    "crl-policy": (
        "if a CRL is missing or stale: warn, or refuse (require); off: read no CRL",
        "warn",
    ),
    "ended-lists": (
        f"images of lists that have expired or are no longer configured: {', '.join(_ENDED)}",
        "keep",
    ),
    "certificate": (
        "own certificate for mutual TLS, PEM",
        "/etc/grid-security/hostcert.pem",
    ),
    "key": ("key of that certificate, PEM", "/etc/grid-security/hostkey.pem"),
    "image-dir": (
        "directory for images, shared with the backend",
        "/var/spool/cloudkeeper/images",
    ),
    "image-dir-quota": (
        "bytes that images may take in image-dir, such as 200G; an empty value means no limit",
        "none",
    ),
    "bandwidth-limit": (
        "bytes a second of all downloads together, such as 50M; an empty value means no limit",
        "none",
    ),
    "transfers-per-host": (
        "images to transfer from one server at the same time",
        "that of parallel-transfers",
    ),
    "parallel-transfers": ("images to transfer at the same time; 1: one after the other", "2"),
    "lock-file": ("lock against a second run", "/var/lock/cloudkeeper/cloudkeeper.lock"),
    "external-tools.binaries.qemu-img": ("path of qemu-img", "/usr/bin/qemu-img"),
    "external-tools.execution-timeout": ("limit of a call of qemu-img, in seconds", "600"),
    "backend.endpoint": (
        f"backend: unix:///PATH, HOST:PORT, or {DIRECT}: within this program",
        f"unix://{_SOCKET_PATH}",
    ),
    "backend.config-file": (
        f"configuration of cloudkeeper-os for the endpoint {DIRECT}",
        f"/etc/cloudkeeper-os/cloudkeeper-os.conf or {_BACKEND_FILE}",
    ),
    "backend.certificate": (
        "certificate or CA of the backend for mutual TLS, PEM",
        "/etc/grid-security/backendcert.pem",
    ),
    "nginx.ip-address": ("address of this host for remote-mode", _LOOPBACK),
    "nginx.port": ("port for remote-mode", "50505"),
    "nginx.proxy.ip-address": (
        "host by which the backend reaches that, if not by the address",
        "none",
    ),
    "nginx.proxy.port": ("port by which the backend reaches that", "that of nginx: port:"),
    "logging.level": (f"lowest level of the log: {', '.join(_LEVELS)}", "ERROR"),
    "logging.file": (
        "log file; an empty value means standard error only",
        "/var/log/cloudkeeper/cloudkeeper.log",
    ),
}
_SWITCHES = {
    "authentication": "use mutual TLS with a backend at HOST:PORT (default: no)",
    "remote-mode": "serve images to a backend on another host over HTTP (default: no)",
    "nginx.proxy.ssl": "the backend reaches that by HTTPS (default: no)",
    "verify-image-list": "verify signatures: cannot be switched off (default: yes)",
}
# The others are input only: the protocol has no number for them.
_FORMATS = [each for each in Format if each.is_accepted]
_LISTS = {
    "ignore-images": "images to ignore, by identifier or title; a pattern with * matches several",
    "image-lists": "URLs of image lists, instead of a file",
    "formats": "formats that the cloud accepts, the preferred one first: "
    f"{', '.join(_FORMATS)} (default: qcow2)",
}


@dataclass(frozen=True, slots=True)
class FrontendSettings:
    """The settings of `cloudkeeper sync`."""

    lists: tuple[Address, ...]
    registries: tuple[RegistrySettings, ...]
    list_problems: tuple[Problem, ...]
    """URLs of lists that are invalid; the other lists are used."""
    ca_dir: Path
    crl_policy: str
    """A word of `CRLPolicy`."""
    ended_lists: str
    """A word of `EndedPolicy`."""
    has_all_sources: bool
    """Whether the sources are those of the configuration, and none is of the command line."""
    image_dir: Path
    parallel: int
    """Images that are transferred at the same time."""
    per_host: int
    """Those of them that come from one server."""
    bandwidth: int | None
    """Bytes a second of all downloads of images together."""
    quota: int | None
    """Bytes that image files may take in the directory."""
    lock_file: Path
    formats: tuple[Format, ...]
    qemu_img: Path
    qemu_img_place: tuple[Path, int] = field(compare=False)
    """File and line of the program; no path without one."""
    patience: timedelta
    """Limit of one call of qemu-img, to which a conversion adds."""
    endpoint: str
    """``unix:///PATH``, ``HOST:PORT`` or `DIRECT`."""
    endpoint_place: tuple[Path, int] = field(compare=False)
    """File and line of the endpoint."""
    backend_file: Path | None
    """Configuration of the backend for `DIRECT`; None: its usual file."""
    direct: Callable[[FrontendSettings], DirectBackend] | None = field(compare=False)
    """The backend for `DIRECT`; None: the entry point offers none."""
    certificates: tuple[Path, Path, Path] | None
    """Own certificate and key, and the backend's certificate; None: no TLS."""
    remote: RemotePlace | None
    """Where images are served to a backend on another host; None: it shares the directory."""
    log_file: Path | None
    """Log file beside standard error; None: none."""
    log_level: int
    warnings: tuple[Problem, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option."""
    group = parser.add_argument_group("options of cloudkeeper.yml, which these flags override")
    helps = {
        option: f"{words} (default: {default})" for option, (words, default) in _VALUES.items()
    }
    ignored = dict.fromkeys(IGNORED, argparse.SUPPRESS)
    for option, words in {**helps, **_SWITCHES, **_LISTS, **ignored}.items():
        kind: dict[str, Any] = {"metavar": "VALUE"}
        if option in _LISTS:
            kind["nargs"] = "+"
        elif option in _SWITCHES:
            kind = {"action": argparse.BooleanOptionalAction}
        group.add_argument(*_flags(option), dest=_dest(option), help=words, **kind)


def load(arguments: argparse.Namespace, layout: Layout) -> FrontendSettings:
    """Read configuration and command line.

    Raises:
        ConfigurationError: one of them is wrong; it holds all problems.

    """
    from appliance.core.config import yaml_file  # noqa: PLC0415  start-up is a cost

    config: Path | None = arguments.config
    candidates = [layout.path(FILE)]
    if layout.root == Path("/"):
        candidates.insert(0, Path("~/.cloudkeeper/cloudkeeper.yml").expanduser())
    read = document.read(
        [config] if config else document.first_existing(candidates), yaml_file.parse
    )
    flags = vars(arguments)
    given = {option: flags[_dest(option)] for option in (*_VALUES, *_SWITCHES, *_LISTS, *IGNORED)}
    texts = {
        _place(option): ",".join(value) if isinstance(value, list) else str(value)
        for option, value in given.items()
        if value is not None
    }
    backend = _backend_of(os.environ)
    if backend and not (_SOCKET.fullmatch(backend) and _names_other_backend(read, texts)):
        texts.setdefault(_place("backend.endpoint"), backend)
    is_whole = not any(_place(option) in texts for option in _SOURCES)
    reader = _FrontendReader(Settings(read, overrides=texts), layout, has_all_sources=is_whole)
    made: Callable[..., DirectBackend] | None = flags.get(DIRECT)
    direct = functools.partial(made, layout=layout) if made else None
    return replace(reader.settings(), direct=direct)


def _names_other_backend(read: document.Document, texts: dict[tuple[str, str], str]) -> bool:
    """Check whether file or flags name a backend that no socket can be: with TLS, or direct."""
    found = Settings(read, overrides=texts)
    named = found.where(*_place("backend.endpoint"))
    has_tls = found.boolean(_TOP, "authentication", default=False)
    return named is not None and (has_tls or named.text == DIRECT)


def _backend_of(environment: Mapping[str, str]) -> str:
    """Return the backend in the environment, from the compose file's variable or from a link."""
    if named := environment.get("CLOUDKEEPER_BACKEND_ENDPOINT", ""):
        return named
    address, port = (
        environment.get(f"BACKEND_PORT_50051_TCP_{name}", "") for name in ("ADDR", "PORT")
    )
    if not (address and port):
        return ""
    return hosts.join_port(address, int(port)) if port.isdecimal() else f"{address}:{port}"


class _FrontendReader:
    """Reads all options, so that `Settings` can report all problems and unknown options at once."""

    def __init__(self, settings: Settings, layout: Layout, *, has_all_sources: bool) -> None:
        self._settings = settings
        self._layout = layout
        self._has_all_sources = has_all_sources

    def settings(self) -> FrontendSettings:
        found = self._settings
        self._refuse_unsupported()
        registries, named_lists, remarks = self._sources()
        lists, problems = self._lists(has_sources=bool(registries or named_lists))
        self._note_endpoints([*lists, *named_lists], registries)
        log_file, log_level = self._log()
        parallel = found.integer(_TOP, "parallel-transfers", default=2, minimum=1, maximum=16)
        ignored = found.words(_TOP, "ignore-images")
        seconds = found.integer(*_place("external-tools.execution-timeout"), default=600, minimum=1)
        return FrontendSettings(
            lists=tuple(_ignoring(each, ignored) for each in (*lists, *named_lists)),
            registries=tuple(_ignoring(each, ignored) for each in registries),
            list_problems=tuple(problems),
            ca_dir=self._path("ca-dir", is_directory=True),
            ended_lists=found.choice(_TOP, "ended-lists", default="keep", allowed=_ENDED),
            has_all_sources=self._has_all_sources,
            crl_policy=found.choice(_TOP, "crl-policy", default="warn", allowed=_POLICIES),
            image_dir=self._path("image-dir", is_directory=True),
            parallel=parallel,
            per_host=found.integer(
                _TOP, "transfers-per-host", default=parallel, minimum=1, maximum=16
            ),
            bandwidth=self._bandwidth(parallel),
            quota=self._amount("image-dir-quota", minimum=_LEAST_QUOTA),
            lock_file=self._path("lock-file"),
            formats=self._formats(),
            # A program of the host, wherever the site's files are.
            qemu_img=found.path(
                *_place("external-tools.binaries.qemu-img"), default=Path("/usr/bin/qemu-img")
            ),
            qemu_img_place=self._where("external-tools.binaries.qemu-img"),
            patience=timedelta(seconds=seconds),
            endpoint=(endpoint := self._endpoint()),
            endpoint_place=self._where("backend.endpoint"),
            backend_file=self._backend_file(is_direct=endpoint == DIRECT),
            direct=None,
            certificates=self._certificates(is_local=_is_local(endpoint)),
            remote=self._remote(is_local=_is_local(endpoint)),
            log_file=log_file,
            log_level=log_level,
            warnings=(*found.finish(), *remarks),
        )

    def _bandwidth(self, parallel: int) -> int | None:
        """Return the limit of all downloads together; it leaves each the least rate of a server."""
        least = parallel * LEAST_RATE
        found = self._amount("bandwidth-limit", minimum=LEAST_RATE)
        if found is not None and found < least:
            words = f"is too low for parallel-transfers: {parallel}; write {amounts.shown(least)}"
            self._settings.error(
                _TOP, "bandwidth-limit", f"{words} or more, or lower parallel-transfers"
            )
        return found

    def _amount(self, option: str, *, minimum: int) -> int | None:
        """Return a number of bytes; None without a limit."""
        text = self._settings.text(_TOP, option)
        if not text:
            return None
        try:
            found = amounts.parse(text)
        except ValueError:
            self._settings.error(_TOP, option, f"{text!r} is not allowed; write {amounts.ALLOWED}")
            return None
        if found < minimum:
            words = f"{text!r} is too low; write {amounts.shown(minimum)} or more"
            self._settings.error(_TOP, option, words)
            return None
        return found

    def _sources(self) -> tuple[list[RegistrySettings], list[Address], tuple[Problem, ...]]:
        """Read the registries, with their accounts, and the lists of sources.yaml."""
        from appliance.core.config import yaml_file  # noqa: PLC0415  start-up is a cost

        sources, accounts = self._optional("sources-file"), self._optional("accounts-file")
        if sources is None:
            return [], [], ()
        known = registry_account.read(accounts) if accounts else {}
        tree = yaml_file.parse(sources, document.read_text(sources))
        return source_settings.read(tree, known)

    def _note_endpoints(
        self, lists: Sequence[Address], registries: Sequence[RegistrySettings]
    ) -> None:
        for address in lists:
            path, line = address.file_and_line
            note_endpoint("image list", address.url, path=path, line=line)
        for registry in registries:
            path, line = registry.origin
            note_endpoint("registry", f"https://{registry.host}", path=path, line=line)

    def _optional(self, option: str) -> Path | None:
        """Return a file that need not exist unless the configuration names it."""
        found, default = self._settings, self._default(option)
        if found.where(_TOP, option):
            return found.file(_TOP, option, default=default)
        path = found.path(_TOP, option, default=default)
        return path if document.may_exist(path) else None

    def _lists(self, *, has_sources: bool) -> tuple[list[Address], list[Problem]]:
        found = self._settings
        alias = (_TOP, "image-list")
        entry = found.where(_TOP, "image-lists", aliases=[alias])
        if entry is None:
            file = self._lists_file(may_be_missing=has_sources)
            if file is None or not file.is_file():
                return [], []
            return addresses.read_file(file, may_be_empty=has_sources)
        if found.where(_TOP, "image-lists-file"):
            words = "cannot be used together with image-lists; remove one of them"
            found.error(_TOP, "image-lists-file", words)
        urls = found.words(_TOP, "image-lists", aliases=[alias])
        if not urls:
            words = f"has no image list; write URLs, separated by commas{addresses.OR_OFF}"
            return [], [Problem(entry.path, entry.line, "image-lists", words)]
        return addresses.read(
            [(url, entry.line) for url in urls], path=entry.path, option="image-lists"
        )

    def _lists_file(self, *, may_be_missing: bool) -> Path | None:
        option = "image-lists-file"
        if may_be_missing:
            return self._optional(option)
        return self._settings.file(_TOP, option, default=self._default(option))

    def _formats(self) -> tuple[Format, ...]:
        words = [word.lower() for word in self._settings.words(_TOP, "formats", default=["qcow2"])]
        unknown = [repr(word) for word in words if word not in _FORMATS]
        if unknown or not words:
            fault = f"{', '.join(unknown)} is not allowed" if unknown else "is empty"
            advice = f"write one or more of {', '.join(_FORMATS)}"
            self._settings.error(_TOP, "formats", f"{fault}; {advice}")
        return tuple(dict.fromkeys(Format(word) for word in words if word in _FORMATS))

    def _endpoint(self) -> str:
        place = _place("backend.endpoint")
        endpoint = self._settings.text(*place, default=f"unix://{self._layout.path(_SOCKET_PATH)}")
        has_tls = self._settings.boolean(_TOP, "authentication", default=False)
        if _is_local(endpoint):
            if has_tls:
                words = f"true: has no effect with backend.endpoint {endpoint}: TLS needs HOST:PORT"
                self._settings.warn(_TOP, "authentication", words)
            return endpoint
        try:
            hosts.split_port(endpoint)
        except ValueError:
            words = f"{endpoint!r} is not allowed; write unix:///PATH, HOST:PORT or {DIRECT}"
            self._settings.error(*place, words)
            return endpoint
        if not has_tls:
            words = f"{endpoint} is used without TLS, so any host could answer in its place"
            self._settings.warn(*place, f"{words}; set authentication: true")
        return endpoint

    def _remote(self, *, is_local: bool) -> RemotePlace | None:
        """Read the remote mode, with the names that 1.7.1 has for its nginx."""
        found = self._settings
        address = found.text(*_place("nginx.ip-address"), default=_LOOPBACK)
        port = found.integer(
            *_place("nginx.port"), default=50505, minimum=1, maximum=hosts.MAX_PORT
        )
        proxy = found.text(*_place("nginx.proxy.ip-address"))
        announced = found.integer(
            *_place("nginx.proxy.port"), default=port, minimum=1, maximum=hosts.MAX_PORT
        )
        scheme = "https" if found.boolean(*_place("nginx.proxy.ssl"), default=False) else "http"
        if not found.boolean(_TOP, "remote-mode", default=False):
            return None
        if is_local:
            words = "true: has no effect with a backend on this host, which reads image-dir"
            found.warn(_TOP, "remote-mode", words)
            return None
        for option, host in (("nginx.ip-address", address), ("nginx.proxy.ip-address", proxy)):
            if host and not hosts.is_host(host):
                found.error(*_place(option), f"{host!r} is not the name or address of a host")
        if not proxy and address in _NOWHERE:
            words = f"{address}: no other host reaches it; write the address of this host"
            found.warn(*_place("nginx.ip-address"), words)
        return RemotePlace(
            address, port, f"{scheme}://{hosts.join_port(proxy or address, announced)}"
        )

    def _backend_file(self, *, is_direct: bool) -> Path | None:
        place = _place("backend.config-file")
        entry = self._settings.where(*place)
        path = self._settings.path(*place, default=self._layout.path(_BACKEND_FILE))
        if entry is None or not entry.text:
            return None  # the backend looks in all its usual places
        if not is_direct:
            words = f"has no effect with another endpoint than {DIRECT}; remove it"
            self._settings.warn(*place, words)
        return path

    def _where(self, option: str) -> tuple[Path, int]:
        entry = self._settings.where(*_place(option))
        return (entry.path, entry.line) if entry else (Path(), 0)

    def _certificates(self, *, is_local: bool) -> tuple[Path, Path, Path] | None:
        found = self._settings
        is_wanted = found.boolean(_TOP, "authentication", default=False) and not is_local
        read = found.file if is_wanted else found.path  # files without a use need not exist
        certificate, key, backend = (
            read(*_place(option), default=self._default(option)) or Path()
            for option in ("certificate", "key", "backend.certificate")
        )
        return (certificate, key, backend) if is_wanted else None

    def _log(self) -> tuple[Path | None, int]:
        found = self._settings
        entry = found.where(*_place("logging.file"))
        file = self._path("logging.file")
        level = _LEVELS[found.choice(*_place("logging.level"), default="ERROR", allowed=_LEVELS)]
        if found.boolean(_TOP, "debug", default=False):
            level = logging.DEBUG
        return None if entry and not entry.text else file, level

    def _refuse_unsupported(self) -> None:
        found = self._settings
        if not found.boolean(_TOP, "verify-image-list", default=True):
            found.error(_TOP, "verify-image-list", "false: lists are always verified; write true")
        # A section must be known even when none of its options is accepted here.
        for option in (*_VALUES, *_SWITCHES, *IGNORED):
            section, name = _place(option)
            found.accept(section, [name] if option in IGNORED else [])

    def _path(self, option: str, *, is_directory: bool = False) -> Path:
        place, default = _place(option), self._default(option)
        return self._settings.path(*place, default=default, is_directory=is_directory)

    def _default(self, option: str) -> Path:
        return self._layout.path(_VALUES[option][1])


def _ignoring(source: _Source, patterns: Iterable[str]) -> _Source:
    """Return a source that also ignores the images that the configuration ignores in all."""
    return replace(source, selection=source.selection.without(patterns))


def _is_local(endpoint: str) -> bool:
    """Return whether calls to a backend never leave this host, and therefore need no TLS."""
    return endpoint == DIRECT or _SOCKET.fullmatch(endpoint) is not None


def _flags(option: str) -> tuple[str, ...]:
    """Return the flags of an option, as 1.7.1 spells them."""
    section, _, name = option.rpartition(".")
    if section.endswith("binaries"):  # the exception: --qemu-img-binary
        return (f"--{name}-binary",)
    flag = f"--{option.replace('.', '-')}"
    return (flag, "--image-list") if option == "image-lists" else (flag,)  # the latter is of 2.0


def _dest(option: str) -> str:
    return f"option_{option}"


def _place(option: str) -> tuple[str, str]:
    """Return section and name of an option with dots."""
    section, _, name = f"{_TOP}.{option}".rpartition(".")
    return section, name
