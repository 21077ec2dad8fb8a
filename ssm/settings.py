"""The settings of sender.cfg and receiver.cfg, as SSM 3.4.1 and 4.0.0 read them.

Extensions: ``[broker] host`` takes a list ``host:port, host:port``; ``[broker] authn_port`` and
``system_cas`` are for AMS; ``[certificates] cipher``; ``[messaging] max_message_size`` and
``max_attempts``; the section ``[journal]``; ``check_crls`` takes the words of `CRLPolicy` beside
true and false.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import files, hosts
from appliance.core.config import document, ini, secret_file
from appliance.core.config.settings import Settings, note_endpoint
from appliance.core.run.errors import Problem
from appliance.core.run.layout import Layout
from ssm import ignored
from ssm.ignored import IGNORED

_LEVELS = ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "CRITICAL")
_MAX_MESSAGE_SIZE = 16 * 1024 * 1024
# SSM's true and false, in all spellings that ConfigParser reads. False makes SSM ignore CRLs; here
# it is `warn`: a CRL that is present counts.
_CRLS = {
    "true": "require",
    "yes": "require",
    "on": "require",
    "1": "require",
    "false": "warn",
    "no": "warn",
    "0": "warn",
}
_ELEMENTS = re.compile(r"[0-9a-f]{8}")  # directories of a dirq spool
PROTOCOLS = ("STOMP", "AMS")
_NAME_A_HOST = {
    "STOMP": "name the message broker, host: HOST:PORT",
    "AMS": "EGI's is msg.argo.grnet.gr",
}
_AMS_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_TOKEN = re.compile(r"[!-~]+")
_HTTPS_PORT = 443
_AUTHN_PORT = 8443  # where EGI's AMS exchanges certificates for tokens
_OTHERS = 0o004  # the permission to read for all users


@dataclass(frozen=True, slots=True)
class Broker:
    """Host and port of a message broker."""

    host: str
    port: int

    def __str__(self) -> str:
        return hosts.join_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class AMSAccess:
    """Access to AMS. Without a token, the certificate is exchanged for one at ``authn_port``."""

    project: str
    token: str = field(repr=False)
    authn_port: int
    system_cas: bool
    """Whether the CAs of the operating system are trusted as well. EGI's AMS needs one of them."""


@dataclass(frozen=True, slots=True)
class Link:
    """How to reach a queue.

    ``brokers`` are in order of preference. With ``ams`` they are AMS endpoints, and ``destination``
    is a topic or a subscription; without, they are STOMP brokers, and it is a queue.
    """

    brokers: tuple[Broker, ...]
    use_ssl: bool
    certificate: Path
    key: Path
    capath: Path
    destination: str
    ams: AMSAccess | None = None


@dataclass(frozen=True, slots=True)
class LogSection:
    """The section [logging]."""

    file: Path
    level: int
    console: bool


@dataclass(frozen=True, slots=True)
class JournalSection:
    """The section [journal]: the journal of sent messages."""

    path: Path
    months: int
    """How long rows are kept; 0: no journal."""


@dataclass(frozen=True, slots=True)
class KeptHere:
    """What a sender keeps on this host: the spool, and the journal of what was sent."""

    spool: Path
    line: int
    """The line that names the spool; 0 for the default."""
    is_dirq: bool
    """Whether the spool is dirq's; otherwise it is a plain directory of files."""
    journal: JournalSection


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """The settings of `ssmsend`."""

    link: Link
    log: LogSection
    kept: KeptHere
    max_message_size: int
    """Bytes of a message before it is signed."""
    server_cert: Path | None
    """The certificate to encrypt to; None to sign only."""
    verify_server_cert: bool
    cipher: str
    crls: str
    """A word of `CRLPolicy`, for the certificates of broker and receiver."""
    max_attempts: int
    """How often a message must break a connection, alone, to become a dead letter."""
    warnings: tuple[Problem, ...]

    @property
    def path(self) -> Path:
        """Return the spool."""
        return self.kept.spool

    @property
    def dead_letters(self) -> Path:
        """Return the queue of dead letters: beside the spool, which must hold only messages."""
        return dead_letters_of(self.path)

    @property
    def lock(self) -> Path:
        """Return the lock file of a run."""
        return self.path.parent / f".{self.path.name}.ssm.lock"

    @property
    def lock_journal(self) -> Path:
        """Return the file with the names of elements that a run has locked, or is about to."""
        return self.path.parent / f".{self.path.name}.ssm.inflight"

    @property
    def suspects(self) -> Path:
        """Return the file with the suspects of earlier runs."""
        return self.path.parent / f".{self.path.name}.ssm.suspects"


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """The settings of `ssmreceive`."""

    link: Link
    log: LogSection
    path: Path
    """The directory of the queues ``incoming`` and ``reject``."""
    max_message_size: int
    """Bytes of a message as it arrives."""
    crls: str
    """A word of `CRLPolicy`, for the certificates of signers and broker."""
    pidfile: Path
    warnings: tuple[Problem, ...]


def dead_letters_of(spool: Path) -> Path:
    """Return the queue of dead letters of a spool."""
    return spool.parent / "failed" / spool.name


def load_sender(path: Path, *, layout: Layout) -> SenderSettings:
    """Read a sender.cfg.

    Raises:
        ConfigurationError: it has faults; all of them are listed.

    """
    settings = Settings(document.read([path], ini.parse))
    link = _read_link(settings, "sender", layout=layout)
    server_cert = settings.file("certificates", "server_cert")
    if server_cert is not None and server_cert == link.certificate:
        settings.error(
            "certificates",
            "server_cert",
            "is this host's own; name the receiver's, or remove the option",
        )
    kept = _read_kept(settings, layout)
    if kept.is_dirq:
        _check_spool(settings, kept.spool)
    ignored.accept(settings, "sender")
    return SenderSettings(
        link=link,
        log=_read_log(settings, layout.path("/var/log/apel/ssmsend.log"), console=True),
        kept=kept,
        max_message_size=_read_size(settings),
        server_cert=server_cert,
        verify_server_cert=settings.boolean("certificates", "verify_server_cert", default=True),
        cipher=settings.choice(
            "certificates", "cipher", default="aes128", allowed=["aes128", "aes256"]
        ),
        crls=_read_crls(settings),
        max_attempts=settings.integer(
            "messaging", "max_attempts", default=3, minimum=2, maximum=100
        ),
        warnings=settings.finish(),  # last: by now every option has been read
    )


def load_kept(path: Path, *, layout: Layout) -> KeptHere:
    """Read what a sender.cfg says of this host, whatever else is wrong with it.

    Raises:
        ConfigurationError: the file cannot be read, or these options have faults.

    """
    settings = Settings(document.read([path], ini.parse))
    kept = _read_kept(settings, layout)
    settings.finish()
    return kept


def load_receiver(path: Path, *, layout: Layout) -> ReceiverSettings:
    """Read a receiver.cfg.

    Raises:
        ConfigurationError: it has faults; all of them are listed.

    """
    settings = Settings(document.read([path], ini.parse))
    ignored.accept(settings, "receiver")
    return ReceiverSettings(
        link=_read_link(settings, "receiver", layout=layout),
        log=_read_log(settings, layout.path("/var/log/apel/ssmreceive.log"), console=False),
        path=settings.path(
            "messaging", "path", default=layout.path("/var/spool/apel"), is_directory=True
        ),
        max_message_size=_read_size(settings),
        crls=_read_crls(settings),
        pidfile=settings.path(
            "daemon", "pidfile", default=layout.path("/var/run/apel/ssmreceive.pid"), is_output=True
        ),
        warnings=settings.finish(),  # last: by now every option has been read
    )


def _read_crls(settings: Settings) -> str:
    """Return a word of `CRLPolicy`; the words of SSM are true and false."""
    allowed = ["warn", "require", "off", *_CRLS]
    word = settings.choice("certificates", "check_crls", default="warn", allowed=allowed)
    return _CRLS.get(word, word)


def _read_link(settings: Settings, role: str, *, layout: Layout) -> Link:
    protocol = _read_protocol(settings, role)
    ams = _read_ams(settings) if protocol == "AMS" else None
    use_ssl = settings.boolean("broker", "use_ssl", default=True)
    if ams is None:
        ignored.accept(settings, "STOMP")
    if not use_ssl:
        text = (
            "has no effect: AMS always uses TLS"
            if ams
            else "messages are sent unencrypted and the broker is not verified"
        )
        settings.warn("broker", "use_ssl", f"{text}; write true")
    brokers = _read_brokers(settings, protocol)
    _note_endpoints(settings, brokers, ams)
    grid = layout.path("/etc/grid-security")
    certificate = settings.file("certificates", "certificate", default=grid / "hostcert.pem")
    key = settings.file("certificates", "key", default=grid / "hostkey.pem")
    capath = settings.path(
        "certificates", "capath", default=layout.grid_certificates, is_directory=True
    )
    destination = _read_destination(settings, role, protocol)
    assert certificate is not None and key is not None  # noqa: S101, PT018  both have a default
    return Link(brokers, use_ssl or ams is not None, certificate, key, capath, destination, ams)


def _note_endpoints(settings: Settings, brokers: Sequence[Broker], ams: AMSAccess | None) -> None:
    entry = settings.where("broker", "host")
    if entry is None:
        return
    scheme, what = ("https", "AMS") if ams else ("stomp", "message broker")
    for broker in brokers:
        url = f"{scheme}://{hosts.join_port(broker.host, broker.port)}"
        note_endpoint(what, url, path=entry.path, line=entry.line)
        if ams and not ams.token:  # the certificate is exchanged for one
            url = f"https://{hosts.join_port(broker.host, ams.authn_port)}"
            note_endpoint("login of AMS", url, path=entry.path, line=entry.line)


def _read_protocol(settings: Settings, role: str) -> str:
    protocol = settings.choice(role, "protocol", default="", allowed=PROTOCOLS)
    # Files from before SSM had AMS have no such option.
    if not protocol and settings.where(role, "protocol") is None:
        settings.warn(role, "protocol", "not set; STOMP is assumed, as before SSM 4")
    return protocol or "STOMP"


def _read_ams(settings: Settings) -> AMSAccess:
    project = settings.text(
        "messaging", "ams_project", required="the project at AMS; EGI's is accounting"
    )
    if project and not _AMS_NAME.fullmatch(project):
        settings.error(
            "messaging", "ams_project", f"{project!r} is not a valid name of an AMS project"
        )
    token, option = settings.text("messaging", "token"), "token"
    if (kept := secret_file.of_option(settings, "messaging", option)) is not None:
        option += secret_file.SUFFIX
        if token:
            settings.error("messaging", option, "token is set as well; remove one of the two")
        token = kept
    if token and not _TOKEN.fullmatch(token):
        settings.error("messaging", option, "holds blanks or characters that a token cannot have")
    entry = settings.where("messaging", "token")
    if token and entry is not None and _is_open(entry.path):
        settings.warn(
            "messaging", "token", "every user of this host may read this file; chmod 0640"
        )
    port = settings.where("broker", "port")
    if port is not None and port.text.strip() != str(_HTTPS_PORT):
        settings.warn(
            "broker",
            "port",
            "has no effect with AMS; to use a port other than 443, write host: HOST:PORT",
        )
    authn_port = settings.integer(
        "broker", "authn_port", default=_AUTHN_PORT, minimum=1, maximum=hosts.MAX_PORT
    )
    system_cas = settings.boolean("broker", "system_cas", default=True)
    return AMSAccess(project, token, authn_port, system_cas)


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return False


def _read_destination(settings: Settings, role: str, protocol: str) -> str:
    wanted = "the queue, for example /queue/NAME"
    if protocol == "AMS":
        wanted = (
            "the topic; EGI's for clouds is eu-egi-cloud-accounting"
            if role == "sender"
            else "the subscription"
        )
    destination = settings.text("messaging", "destination", required=wanted)
    if protocol == "AMS" and destination and not _AMS_NAME.fullmatch(destination):
        settings.error(
            "messaging", "destination", f"{destination!r} is not a valid name at AMS; name {wanted}"
        )
    if ".test." in destination:
        settings.warn(
            "messaging",
            "destination",
            f"{destination} is a test queue: messages sent there are not accounted",
        )
    return destination


def _read_brokers(settings: Settings, protocol: str) -> tuple[Broker, ...]:
    default_port = settings.integer(
        "broker", "port", default=_HTTPS_PORT, minimum=1, maximum=hosts.MAX_PORT
    )
    if protocol == "AMS":
        default_port = _HTTPS_PORT
    name_a_host = _NAME_A_HOST[protocol]
    old = [option for option in IGNORED["always"]["broker"] if settings.where("broker", option)]
    brokers = []
    words = settings.words("broker", "host")
    for word in words:
        try:
            host, port = hosts.split_port(word, default_port=default_port)
        except ValueError:
            # A word with an account may hold a password, which a message must not show.
            shown = "an account" if "@" in word else repr(word)
            settings.error(
                "broker",
                "host",
                f"{shown} is not allowed; write host or host:port, several with commas",
            )
            continue
        if not hosts.is_host(host):
            settings.error(
                "broker",
                "host",
                f"no host can have the name {host!r}; write host or host:port",
            )
        if host == "msg.example.org":
            settings.error("broker", "host", f"is still the placeholder {word!r}; {name_a_host}")
        brokers.append(Broker(host, port))
    if old:
        text = "brokers are no longer looked up in the information system; this option is ignored"
        settings.warn("broker", old[0], f"{text}; {'host is used' if brokers else name_a_host}")
    if not words:
        settings.error("broker", "host", f"must be set: {name_a_host}")
    return tuple(brokers)


def _read_kept(settings: Settings, layout: Layout) -> KeptHere:
    spool = settings.path(
        "messaging", "path", default=layout.path("/var/spool/apel/outgoing"), is_directory=True
    )
    place = settings.where("messaging", "path")
    allowed = ["dirq", "directory"]
    return KeptHere(
        spool,
        place.line if place else 0,
        settings.choice("messaging", "path_type", default="dirq", allowed=allowed) == "dirq",
        _read_journal(settings, layout),
    )


def _check_spool(settings: Settings, spool: Path) -> None:
    """Warn of spools inside the spool: their messages are never sent."""
    try:
        # Hidden directories are the staging areas of producers.
        inside = files.listed(
            spool,
            lambda name: not name.startswith(".") and not _ELEMENTS.fullmatch(name),
            directories=True,
        )
        for entry in inside.paths:
            if files.listed(entry, _ELEMENTS.fullmatch, directories=True).paths:
                text = (
                    "is a spool of its own, which is not sent; if you mean that one, set path to it"
                )
                settings.warn("messaging", "path", f"{entry} {text}")
    except OSError:  # missing or unreadable: the run itself reports that
        return


def _read_size(settings: Settings) -> int:
    return settings.integer(
        "messaging",
        "max_message_size",
        default=_MAX_MESSAGE_SIZE,
        minimum=1024,
        maximum=8 * _MAX_MESSAGE_SIZE,
    )


def _read_journal(settings: Settings, layout: Layout) -> JournalSection:
    default = layout.path("/var/lib/fedcloud/ssm/sent.sqlite")
    return JournalSection(
        settings.path("journal", "path", default=default, is_output=True),
        settings.integer("journal", "months", default=24, minimum=0, maximum=1200),
    )


def _read_log(settings: Settings, default: Path, *, console: bool) -> LogSection:
    file = settings.path("logging", "logfile", default=default)
    word = settings.choice("logging", "level", default="INFO", allowed=_LEVELS)
    level = logging.getLevelNamesMapping()[word]
    return LogSection(file, level, settings.boolean("logging", "console", default=console))
