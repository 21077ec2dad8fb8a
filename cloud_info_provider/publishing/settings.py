"""The settings of ``publish.yaml``: the file that is written, and the store that it is uploaded to.

Without the file its defaults count, which suffice for ``--publisher file``. Secrets are in files of
their own, which only their owner may read: ``password_file`` in place of ``password``.
"""

from __future__ import annotations

import argparse
import base64
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from appliance.core import hosts, shrink
from appliance.core.cloud import access
from appliance.core.cloud.login import Access
from appliance.core.config import document, secret_file, yaml_file
from appliance.core.config.document import Document, Setting
from appliance.core.config.settings import Settings
from appliance.core.run import log
from appliance.core.run.errors import ConfigurationError, Problem, UsageError
from appliance.core.run.layout import Layout
from appliance.core.web import WebAddress
from cloud_info_provider.publishing.s3 import S3Key
from cloud_info_provider.publishing.selection import HTTP, OUTPUT, PUBLISH_FILE, S3, STORES, SWIFT

_TIMEOUT = 60
_BESIDE = (".state", ".lock")
"""Suffixes of the files beside the output (`cloud_info_provider.publishing.kept`)."""
_CONTAINER = re.compile(r"[^/\x00-\x1f]{1,128}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class SwiftTarget:
    """A container of the cloud that ``access`` logs in to."""

    access: Access
    project_id: str
    container: str


@dataclass(frozen=True, slots=True)
class WebTarget:
    """A folder of a web server. ``authorization`` is the header's value; it may be empty."""

    server: WebAddress
    authorization: str
    account: str


@dataclass(frozen=True, slots=True)
class BucketTarget:
    """A bucket of an S3 service."""

    server: WebAddress
    bucket: str
    key: S3Key


Target = SwiftTarget | WebTarget | BucketTarget


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """Where a document goes.

    Attributes:
        output: the file, which is the last good document as well.
        target: the object store; None without one.
        shrink_hold: for which a document that lost more than half of its objects is held.
        warnings: dubious options.

    """

    output: Path
    target: Target | None
    shrink_hold: timedelta
    warnings: tuple[Problem, ...]


def load(arguments: argparse.Namespace, layout: Layout) -> PublishSettings:
    """Return the settings; raises `ConfigurationError` with all errors in the file."""
    path = Path(arguments.publish_file) if arguments.publish_file else layout.path(PUBLISH_FILE)
    is_needed = arguments.publish_file or arguments.publisher in STORES
    read = Document(paths=[path])
    if is_needed or document.may_exist(path):
        read = yaml_file.parse(path, document.read_text(path))
    problems, from_files = _with_secrets(read)
    settings = Settings(read)
    output = settings.path("file", "path", default=layout.path(OUTPUT))
    hold = settings.integer(
        "file", "shrink_hold", default=round(shrink.HOLD.total_seconds()), maximum=604800
    )
    chosen = arguments.publisher
    for name in STORES:
        if name != chosen:
            settings.accept(name, read.sections.get(name, {}))
    part = _PublishFile(settings, read, from_files)
    target = _TARGETS[chosen](part) if chosen in STORES else None
    warnings: tuple[Problem, ...] = ()
    try:
        warnings = settings.finish()
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError([_renamed(problem) for problem in problems])
    chosen_output = Path(arguments.output).absolute() if arguments.output else output
    if chosen_output.suffix in _BESIDE:
        words = f"{chosen_output} has the name of a file that is kept beside the output"
        subject = "--output" if arguments.output else f"{path}: file.path"
        raise UsageError(subject, words, "end it with .json")
    return PublishSettings(
        chosen_output,
        target,
        timedelta(seconds=hold),
        tuple(map(_renamed, warnings)),
    )


def _renamed(problem: Problem) -> Problem:
    """Return a problem with its option named by its path in the file, ``swift.container``."""
    section, _, option = problem.option.removeprefix("[").partition("] ")
    return replace(problem, option=f"{section}.{option}") if option else problem


@dataclass(frozen=True, slots=True)
class _PublishFile:
    """The file as read, with the options that have their values from files of their own."""

    settings: Settings
    read: Document
    from_files: Collection[tuple[str, str]]

    def refuse_inline(self, section: str, names: Iterable[str]) -> None:
        """Report secrets in the file itself, which more people read than those of their own."""
        for name in names:
            entry = self.read.get(section, name)
            if entry and entry.text and (section, name) not in self.from_files:
                words = f"write it into a file of mode 0600, and {name}_file: PATH here"
                self.settings.error(section, name, words)


def _with_secrets(read: Document) -> tuple[list[Problem], set[tuple[str, str]]]:
    """Set each option ``NAME`` for which there is ``NAME_file``; return what is wrong, and which.

    ``read`` is changed: the option has the file's first line, and the place of the option that
    names the file.
    """
    problems: list[Problem] = []
    found: set[tuple[str, str]] = set()
    for section, options in read.sections.items():
        for name, entry in [*options.items()]:
            option = name.removesuffix(secret_file.SUFFIX)
            if section not in STORES or option == name:
                continue
            try:
                options[option] = Setting(_secret(entry.text), entry.path, entry.line)
            except secret_file.BadSecret as error:
                where = f"{section}.{name}"
                problems.append(Problem(entry.path, entry.line, where, str(error)))
                options[option] = Setting("unreadable", entry.path, entry.line)
            del options[name]
            found.add((section, option))
    return problems, found


def _secret(text: str) -> str:
    path = Path(text)
    found = secret_file.read(path)
    if found.mode & 0o077:
        words = f"{path} can be read by others (mode {found.mode:04o}); chmod 600 {path}"
        raise secret_file.BadSecret(words)
    return found.text


def _swift(part: _PublishFile) -> SwiftTarget:
    settings, section = part.settings, SWIFT
    auth_type = settings.text(section, "auth_type", default="v3password")
    part.refuse_inline(section, _secrets_of(auth_type))
    options = access.read_options(settings, section, auth_type)
    url = access.read_url(settings, section)
    authorities = settings.file(section, "cacert")
    timeout = settings.integer(section, "timeout", default=_TIMEOUT, minimum=1, maximum=3600)
    container = settings.text(section, "container", required="the name of the container")
    if container and not _CONTAINER.fullmatch(container):
        settings.error(
            section,
            "container",
            f"{container!r} cannot be a container's name; write 1 to 128 characters without /",
        )
    login = Access(
        auth_type=auth_type,
        auth_url=url,
        options={**options, "auth_url": url},
        region=settings.text(section, "region_name") or None,
        verify=str(authorities) if authorities else True,
        timeout=timedelta(seconds=timeout),
        uses_system_scope=False,
        interface=settings.choice(
            section, "interface", default="public", allowed=("public", "internal")
        ),
        section=section,
        role="member",
        places=access.read_places(settings, section, auth_type),
        authorities=f"{section}.cacert in {part.read.paths[-1]}",
    )
    project_id = settings.text(section, "project_id")
    if not project_id and not login.is_bound:
        settings.error(section, "project_id", "must be set: the id of the container's project")
    return SwiftTarget(login, project_id, container)


def _secrets_of(auth_type: str) -> tuple[str, ...]:
    from appliance.core.cloud import login  # noqa: PLC0415  loads keystoneauth

    try:
        return tuple(option.name for option in login.options(auth_type) if option.is_secret)
    except LookupError:  # read_options() reports it
        return ()


def _server(settings: Settings, section: str, words: str) -> WebAddress:
    url = settings.text(section, "url", required=words)
    if url and (fault := hosts.url_fault(url)):
        shown = "" if set(url) & set("@?#") else f"{url!r} "
        settings.error(section, "url", f"{shown}{fault}; write {words}")
    elif not url.isascii():
        settings.error(
            section, "url", f"{url!r} is not ASCII; write the host as xn--…, the path as %…"
        )
    authorities = settings.file(section, "cacert")
    timeout = settings.integer(section, "timeout", default=_TIMEOUT, minimum=1, maximum=3600)
    trust = "set cacert in publish.yaml to the authority that issued it"
    return WebAddress(url.rstrip("/"), authorities, timedelta(seconds=timeout), trust)


def _http(part: _PublishFile) -> WebTarget:
    settings = part.settings
    part.refuse_inline(HTTP, ("password", "token"))
    server = _server(settings, HTTP, "https://HOST/FOLDER")
    user = settings.text(HTTP, "username")
    password, token = settings.text(HTTP, "password"), settings.text(HTTP, "token")
    if not token.isascii():
        settings.error(HTTP, "token", "is not ASCII, as tokens are; copy it again into its file")
    if token and (user or password):
        settings.error(HTTP, "token", "is set, and username too; write one of the two")
    if bool(user) != bool(password):
        missing = "password_file" if user else "username"
        settings.error(HTTP, missing, "must be set: name and password belong together")
    if (token or password) and server.url.startswith("http:"):
        settings.warn(HTTP, "url", "anybody on the network may read the password; write https")
    basic = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    authorization = f"Bearer {token}" if token else f"Basic {basic}" if user else ""
    log.hide(basic)
    return WebTarget(server, authorization, f"the account {user!r}" if user else "the token")


def _s3(part: _PublishFile) -> BucketTarget:
    settings = part.settings
    part.refuse_inline(S3, ("secret_key",))
    bucket = settings.text(S3, "bucket", required="the name of the bucket")
    if bucket and not _BUCKET.fullmatch(bucket):
        settings.error(S3, "bucket", f"{bucket!r} cannot be the name of a bucket")
    access_key = settings.text(S3, "access_key", required="the name of the access key")
    secret_key = settings.text(S3, "secret_key")
    if not secret_key:
        settings.error(S3, "secret_key_file", "must be set: the file of the key's secret")
    region = settings.text(S3, "region", default="us-east-1")
    for name, text in (("access_key", access_key), ("region", region)):
        if not text.isascii():
            settings.error(S3, name, f"{text!r} is not ASCII, as the names of S3 are")
    key = S3Key(access_key, secret_key, region)
    return BucketTarget(_server(settings, S3, "https://HOST"), bucket, key)


_TARGETS: Mapping[str, Callable[[_PublishFile], Target]] = MappingProxyType(
    {SWIFT: _swift, HTTP: _http, S3: _s3}
)
