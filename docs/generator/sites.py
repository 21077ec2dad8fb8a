"""The sites that the generator loads: the shipped files, varied until every option is read.

Some options are read only beside others: those of AMS without STOMP, of one login plugin, of a site
level BDII. Each variant is a change of the shipped text.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

from appliance.admin import settings as host
from appliance.core.run import cli
from appliance.core.run.errors import ApplianceError
from appliance.core.run.layout import Layout
from bdii import settings as bdii
from caso import settings as caso
from caso.cmds import startup as caso_flags
from cloud_info_provider import settings as provider
from cloud_info_provider.cmds import service as provider_flags
from cloud_info_provider.publishing import settings as publishing
from cloud_info_provider.publishing.selection import PUBLISH_FILE, STORES
from cloudkeeper.backend import settings as backend
from cloudkeeper.frontend import settings as frontend
from cloudkeeper.frontend.commands import sync as cloudkeeper_flags
from ssm import settings as ssm

TOP = Path(__file__).resolve().parents[2]
PLUGINS = (
    "v3password",
    "v3applicationcredential",
    "v3oidcclientcredentials",
    "v3oidcpassword",
    "v3oidcaccesstoken",
)
"""Login plugins of keystoneauth whose options the reference lists."""
_NAME = "HOST.DOMAIN"
"""What stands in the pages for the name of the administrator's host."""


def load_all(root: Path) -> None:
    """Load every configuration file below ``root``, in all variants."""
    _install(root)
    layout = Layout(root)
    with _plain_environment():
        _load_caso(layout)
        _load_ssm(layout)
        _load_bdii(layout)
        _load_provider(layout)
        _load_images(layout)
        host.load(layout)


def load_with_ignored(root: Path, ignored: Mapping[str, Mapping[str, str]]) -> None:
    """Load the BDII's file once more with the options that have no effect: the program says why."""
    path = root / "etc/bdii/bdii.conf"
    lines = [f"{option}=x\n" for options in ignored.values() for option in options]
    path.write_text(path.read_text() + "".join(lines))
    with _plain_environment():
        _attempt(lambda: bdii.read(path, layout=Layout(root)))


def _install(root: Path) -> None:
    """Lay out a site: the shipped files, and the files that some of them name."""
    shutil.copytree(TOP / "etc", root / "etc")
    for name in ("hostcert.pem", "hostkey.pem"):
        path = root / "etc/grid-security" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@contextlib.contextmanager
def _plain_environment() -> Iterator[None]:
    """Keep the caller's environment and the name of this machine out of the pages."""
    with (
        mock.patch.dict(os.environ, {"PATH": os.defpath}, clear=True),
        mock.patch.object(socket, "getfqdn", return_value=_NAME),
    ):
        yield


def _attempt(load: Callable[[], object]) -> None:
    """Load a file; errors in it do not matter, since every option has been read by then."""
    with contextlib.suppress(ApplianceError):
        load()


def _edited(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        if old not in text:
            raise ValueError(f"{path}: no {old!r} in the shipped file")
        text = text.replace(old, new)
    path.write_text(text)


def _parsed(
    add_arguments: Callable[[argparse.ArgumentParser], None], words: Sequence[str] = ()
) -> argparse.Namespace:
    program = cli.Program("generator", "", add_arguments, lambda _: 0)
    return cli.parser(program).parse_args(words)


def _load_caso(layout: Layout) -> None:
    path = layout.path("/etc/caso/caso.conf")
    shipped = path.read_text()
    arguments = _parsed(caso_flags.add_arguments)
    for plugin in PLUGINS:
        path.write_text(shipped)
        _edited(path, ("auth_type = v3password", f"auth_type = {plugin}"))
        _attempt(lambda: caso.load(arguments, layout))
    path.write_text(shipped)
    # Of messengers, only those that are named read their options.
    _edited(path, ("messengers = ssm", "messengers = noop, ssm, logstash, greendigit_cim"))
    _attempt(lambda: caso.load(arguments, layout))


def _load_ssm(layout: Layout) -> None:
    sender, receiver = (layout.path(f"/etc/apel/{name}.cfg") for name in ("sender", "receiver"))
    _attempt(lambda: ssm.load_sender(sender, layout=layout))
    _edited(sender, ("protocol: AMS", "protocol: STOMP"))
    _attempt(lambda: ssm.load_sender(sender, layout=layout))
    _attempt(lambda: ssm.load_receiver(receiver, layout=layout))
    _edited(receiver, ("protocol: STOMP", "protocol: AMS"))
    _attempt(lambda: ssm.load_receiver(receiver, layout=layout))


def _load_bdii(layout: Layout) -> None:
    for name in ("/etc/bdii/bdii.conf", "/etc/sitebdii/bdii.conf"):
        path = layout.path(name)
        path.write_text(
            path.read_text().replace("=/etc/", f"={layout.root}/etc/") + "\nBDII_IPV6_SUPPORT=yes\n"
        )
        _attempt(lambda path=path: bdii.read(path, layout=layout))  # type: ignore[misc]


def _load_provider(layout: Layout) -> None:
    account = layout.path("/etc/cloud-info-provider/openstack.rc")
    _edited(
        layout.path("/etc/cloud-info-provider/openstack.yaml"),
        ("vo.example.org", "VO"),
        ("total_cores: 0", "total_cores: 8"),
    )
    arguments = _parsed(provider_flags.add_arguments)
    arguments.full_bdii_ldif = True
    _attempt(lambda: provider.load(arguments, layout))
    arguments.full_bdii_ldif = False
    shipped = account.read_text()
    for plugin in PLUGINS:
        account.write_text(f"{shipped}\nexport OS_AUTH_TYPE={plugin}\n")
        _attempt(lambda: provider.load(arguments, layout))
    for publisher in STORES:
        arguments.publisher = publisher
        for plugin in PLUGINS:
            layout.path(PUBLISH_FILE).write_text(f"{publisher}: {{auth_type: {plugin}}}\n")
            _attempt(lambda: publishing.load(arguments, layout))


def _load_images(layout: Layout) -> None:
    arguments = _parsed(cloudkeeper_flags.add_arguments)
    layout.path("/etc/cloudkeeper/sources.yaml").write_text(
        "harbor: {registry_host: HOST}\n"
        "REGISTRY: {type: harbor, project: project, vos: [VO], properties: {PROPERTY: VALUE}}\n"
        "LIST: {url: 'https://HOST/LIST', properties: {PROPERTY: VALUE}}\n"
    )
    _attempt(lambda: frontend.load(arguments, layout))
    _edited(
        layout.path("/etc/cloudkeeper/cloudkeeper.yml"),
        ("image-lists-file: /etc/cloudkeeper/image-lists.conf", "image-lists: [https://HOST/LIST]"),
    )
    _attempt(lambda: frontend.load(arguments, layout))
    path = layout.path("/etc/cloudkeeper/cloudkeeper-os.conf")
    shipped = path.read_text()
    certificates = layout.path("/etc/fedcloud/tls/cloudkeeper-os")
    certificates.mkdir(parents=True)
    (certificates / "certificate.pem").touch()
    for plugin in PLUGINS:
        path.write_text(shipped)
        _edited(
            path,
            ("#username", f"auth_type = {plugin}\n#username"),
            ("#grpc_port", "grpc_port"),
        )
        _attempt(lambda: backend.load(None, layout=layout, overrides={}))
