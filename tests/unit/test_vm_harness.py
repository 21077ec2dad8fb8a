"""The pure parts of tests/vm: the document of the page, and the command line of QEMU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.testbed import Authority
from tests.testbed.layout import Layout
from tests.vm import machine, site_data, test_machine_faults
from tests.vm.machine import Firmware, Hardware, VirtualMachine

VALUES = {
    "CERTIFICATE": "-----BEGIN CERTIFICATE-----\nKEY+PASSWORD\n-----END CERTIFICATE-----\n",
    "KEY": "one\ntwo\n",
    "SITE-NAME": "SITE-1",
}


def test_the_document_of_the_page_is_filled_in() -> None:
    """Its lines are those that a person writes; values of several lines keep their indentation."""
    text = site_data.filled(VALUES, files={"/etc/one": "a\nb\n"}, commands=["true", "echo 'a: b'"])
    tree = yaml.safe_load(text)
    files = {one["path"]: one["content"] for one in tree["write_files"]}
    assert files["/etc/one"] == "a\nb\n"
    assert files["/etc/grid-security/hostcert.pem"] == VALUES["CERTIFICATE"]
    assert files["/etc/grid-security/hostkey.pem"] == VALUES["KEY"]
    assert yaml.safe_load(files["/etc/fedcloud/answers.yaml"])["site"] == "SITE-1"
    assert tree["bootcmd"] == [["sh", "-c", "true"], ["sh", "-c", "echo 'a: b'"]]
    line = site_data.line_of(text, "site: SITE-1")
    assert text.splitlines()[line - 1].strip() == "site: SITE-1"


def test_a_word_that_the_page_has_no_longer_is_noticed() -> None:
    with pytest.raises(AssertionError, match="NO-SUCH-WORD"):
        site_data.filled({"NO-SUCH-WORD": "x"}, files={}, commands=[])


@pytest.mark.parametrize("firmware", Firmware)
def test_a_machine_is_emulated_and_reaches_nothing(tmp_path: Path, firmware: Firmware) -> None:
    made = VirtualMachine(tmp_path, tmp_path / "image", Hardware(firmware), ports={2170: 5000})
    words = machine.command(made, tmp_path / "disk", tmp_path / "console.0")
    assert words[words.index("-accel") + 1] == "tcg,thread=multi"
    network = words[words.index("-nic") + 1]
    assert "restrict=on" in network
    assert "hostfwd=tcp:127.0.0.1:5000-:2170" in network
    assert any("pflash" in word for word in words) == (firmware is Firmware.UEFI)


def test_the_documents_of_the_machines_are_answers() -> None:
    """Those of the faults differ from the page's in what they are about alone."""
    tree = yaml.safe_load(test_machine_faults.document())
    files = {one["path"]: one["content"] for one in tree["write_files"]}
    answers = yaml.safe_load(files["/etc/fedcloud/answers.yaml"])
    assert answers["flows"] == ["information"]
    assert answers["accounts"] == {
        "information": {"name": "information", "password": test_machine_faults.PASSWORD}
    }


def test_the_document_of_a_site_of_the_test_bed(tmp_path: Path) -> None:
    """Certificates, key and authorities arrive as they are; ports of the bed are reached."""
    authority = Authority.create(tmp_path / "ca", key="ec")
    authority.publish(tmp_path / "grid")
    account = SimpleNamespace(name="reader", password="it's: a #secret")
    bed: Any = SimpleNamespace(
        seed=lambda: SimpleNamespace(
            accounts={"accounting": account, "information": account},
            projects={"a": SimpleNamespace(vo="ops", id="0a"), "b": SimpleNamespace(vo="", id="1")},
        ),
        host_credential=lambda name: authority.issue(f"{name}.example.org", key="ec"),
        broker=SimpleNamespace(host="localhost", tls_port=4711),
        keystone_url="https://127.0.0.1:5000/v3",
        ca_file=authority.certificate,
        ca_directory=tmp_path / "grid",
        layout=Layout(tmp_path, 23800),
    )
    tree = yaml.safe_load(site_data.of_site(bed, queue="/queue/one"))
    files = {one["path"]: one["content"] for one in tree["write_files"]}
    answers = yaml.safe_load(files["/etc/fedcloud/answers.yaml"])
    assert answers["accounts"]["accounting"] == {"name": "reader", "password": account.password}
    assert (answers["profile"], answers["queue"]) == ("private", "/queue/one")
    assert answers["vos"] == {"ops": "0a"}
    assert files[site_data.AUTHORITY] == authority.certificate.read_text()
    for path in (tmp_path / "grid").iterdir():
        assert files[f"/etc/grid-security/certificates/{path.name}"] == path.read_text()
    commands = "\n".join(line for _, _, line in tree["bootcmd"])
    assert "4711" in commands
    assert "23800" in commands
