"""A site with all shipped files, filled in, whose programs run in this process."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.admin.check import inside, programs, space
from appliance.admin.command import main
from appliance.admin.runtime import native
from appliance.core.config import settings
from appliance.core.run import log
from tests.testbed import Authority

TOP = Path(__file__).parents[2]
PROGRAMS = {
    "bdii-update": "bdii.cmds.update",
    "caso-extract": "caso.cmds.extract",
    "cloud-info-provider-service": "cloud_info_provider.cmds.service",
    "cloudkeeper": "cloudkeeper.cmds.frontend",
    "cloudkeeper-os": "cloudkeeper.cmds.backend",
    "ssmsend": "ssm.cmds.send",
}
CASO, RC, SHARES = (
    "etc/caso/caso.conf",
    "etc/cloud-info-provider/openstack.rc",
    "etc/cloud-info-provider/openstack.yaml",
)
BACKEND, LISTS = "etc/cloudkeeper/cloudkeeper-os.conf", "etc/cloudkeeper/image-lists.conf"
SENDER, SITE_CFG, VOS = "etc/apel/sender.cfg", "etc/sitebdii/site.cfg", "etc/voms.json"
SPOOL = "{root}/var/spool/apel/outgoing/openstack"
DEFAULTS, ENV = "etc/sitebdii/glite-info-site-defaults.conf", "etc/fedcloud/appliance.env"
FILLED = {
    "etc/fedcloud/appliance.yaml": {"images: off": "images: on"},
    "etc/caso/caso.conf": {
        "SITE-NAME": "SITE",
        "PROJECT-NAMES": "project",
        "yourkeystone/v3": "keystone.example.net:5000/v3",
        "#username =": "username =",
        "#password =": "password = geheimes",
        "#user_domain_name": "user_domain_name",
    },
    "etc/cloud-info-provider/openstack.rc": {
        "yourkeystone": "keystone.example.net",
        "USERNAME=": "USERNAME=reader",
        "PASSWORD=": "PASSWORD=geheimes",
    },
    "etc/cloud-info-provider/openstack.yaml": {
        "SITE-NAME": "SITE",
        "PROJECT-ID": "0" * 32,
        "total_cores: 0": "total_cores: 8",
        "total_ram: 0": "total_ram: 64",
    },
    "etc/cloudkeeper/cloudkeeper-os.conf": {
        "#username": "username",
        "#password =": "password = geheimes",
        "#auth_url =": "auth_url = https://keystone.example.net:5000/v3",
    },
    "etc/cloudkeeper/image-lists.conf": {"# https://TOKEN:x-oauth-basic@": "https://"},
    # a tenth of a second for each run
    "etc/apel/sender.cfg": {"#system_cas: true": "system_cas: false"},
    "etc/sitebdii/site.cfg": {"SITE-NAME": "SITE", "@example.com": "@example.net"},
    "etc/sitebdii/glite-info-site-defaults.conf": {
        "SITE-NAME": "SITE",
        "bdii.example.com": "bdii.example.net",
    },
    "etc/voms.json": {"mytenant": "project", "vo.example.org": "ops"},
}
ONE_AT_A_TIME = threading.Lock()
"""A program has arguments, an environment and outputs of its own; here it is the process's."""
PLACES = re.compile(r"(?<=[ =:])/(?=(?:etc|var)/)")


@dataclass(frozen=True)
class Site:
    """A host's files."""

    root: Path
    environment: dict[str, str]

    def edit(self, name: str, *changes: tuple[str, str]) -> None:
        path = self.root / name
        text = path.read_text()
        for old, new in changes:
            assert old in text, (name, old)
            text = text.replace(old, new)
        path.write_text(text)

    def check(self) -> list[str]:
        """Return what is found, each as it is printed."""
        return [
            ": ".join(str(part) for part in (_where(one), one["option"], one["text"]) if part)
            for one in self.findings()
        ]

    def findings(self, *words: str) -> list[dict[str, Any]]:
        """Return what is found."""
        with (
            contextlib.redirect_stdout(io.StringIO()) as reported,
            contextlib.redirect_stderr(io.StringIO()) as said,
        ):
            status = main(["check", "--offline", "--json", *words, "--root", str(self.root)])
        assert reported.getvalue(), (status, said.getvalue())
        findings: list[dict[str, Any]] = json.loads(reported.getvalue())["findings"]
        assert status == bool(findings)
        return findings

    def ask(
        self, _: str, command: Sequence[str], environment: Mapping[str, str], *, limit: int
    ) -> tuple[list[str], int]:
        """Run a program in this process, as `inside._run` does in another."""
        assert limit  # there is nothing here that could hang
        name, *words = command
        said = io.StringIO()
        with (
            ONE_AT_A_TIME,
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(None),
            pytest.MonkeyPatch.context() as patch,
        ):
            settings._observed.clear()  # another process has read nothing yet
            for key, text in (dict(environment) | self.environment).items():
                patch.setenv(key, text)
            patch.setattr(
                "sys.argv", [name, *(PLACES.sub(f"{self.root}/", f" {word}")[1:] for word in words)]
            )
            status = importlib.import_module(PROGRAMS[name]).main()
        return said.getvalue().splitlines(), int(status)


def ship(root: Path, *, pki: Path) -> Path:
    """Make the shipped files of a site, and a certificate for its host."""
    shutil.copytree(TOP / "etc", root / "etc")
    shutil.copytree(TOP / "cron.d", root / "etc/cron.d")
    shutil.copytree(TOP / "systemd", root / "etc/systemd/system")
    for path in (root / "etc/cron.d").iterdir():
        path.chmod(0o644)
    grid = root / "etc/grid-security"
    authority = Authority.create(pki / "ca", key="ec")
    host = authority.issue("host.example.net", key="ec")
    authority.publish(grid / "certificates")
    shutil.copy(host.certificate, grid / "hostcert.pem")
    shutil.copy(host.key, grid / "hostkey.pem")
    (grid / "hostcert.pem").chmod(0o444)
    (grid / "hostkey.pem").chmod(0o400)
    return root


@contextlib.contextmanager
def healthy(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Yield a site where nothing is found, in a directory whose name is short: it has a socket."""
    with tempfile.TemporaryDirectory(prefix="s") as short:
        root = Path(short)
        shutil.copytree(shipped, root, dirs_exist_ok=True)
        monkeypatch.setattr(log, "_secrets", set())
        mask = os.umask(0o022)  # which programs set for themselves
        yield _filled(Site(root, {}), monkeypatch)
        os.umask(mask)


def _filled(made: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    root = made.root
    for path in [*root.glob("etc/*/*.*"), root / "etc/voms.json"]:
        if path.is_file():
            path.write_text(PLACES.sub(f"{root}/", path.read_text()))
    for name, changes in FILLED.items():
        made.edit(name, *changes.items())
    for name in (CASO, RC, BACKEND):
        (root / name).chmod(0o600)
    # The disk of the machine that runs the tests may be a small one.
    monkeypatch.setattr(space, "IMAGES", 0)
    for name in (
        "image_data",
        "var/log/apel",
        "var/spool/apel/outgoing/openstack",
        "var/lib/fedcloud",
    ):
        (root / name).mkdir(parents=True)
    (root / "var/lib/fedcloud/runtime").write_text("native\n")
    # The host looks for what sender.cfg names below the root, ssmsend does not.
    below = root / str(root).lstrip("/")
    below.parent.mkdir(parents=True, exist_ok=True)
    below.symlink_to(root)
    monkeypatch.setattr(programs, "_FRESH", 0)
    monkeypatch.setattr(inside, "_run", made.ask)
    monkeypatch.setattr(
        native, "command", lambda job, *_, arguments, **__: [*job.command, *arguments]
    )
    return made


def _where(finding: Mapping[str, Any]) -> str:
    return f"{finding['path']}:{finding['line']}" if finding["line"] else str(finding["path"])
