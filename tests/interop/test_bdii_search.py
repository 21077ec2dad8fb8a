"""`appliance bdii search` beside OpenLDAP's own client, and `appliance bdii wait`, on a real slapd.

R33: ``ldapsearch -x -p 2170 -h HOST -b o=glue`` of the manual; ldapsearch itself no longer knows -h
and -p.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from appliance.admin.command import main
from appliance.core.ldif import Entry
from appliance.core.run.layout import Layout
from bdii import settings, tree
from bdii.slapd.process import Slapd
from tests.e2e.bdii_service import Bdii


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    bdii = Bdii(tmp_path)
    read, _ = settings.read(bdii.configuration, layout=Layout(tmp_path))
    made = Slapd(read)
    made.recover()
    made.serve(
        {
            tree.SUFFIX: Entry("o=glue", {"objectClass": ("organization",), "o": ("glue",)}),
            tree.Dn("GLUE2GroupID=cloud,o=glue"): Entry(
                "GLUE2GroupID=cloud,o=glue",
                {"objectClass": ("GLUE2Group",), "GLUE2GroupID": ("cloud",)},
            ),
            tree.Dn("GLUE2DomainID=X,o=glue"): Entry(
                "GLUE2DomainID=X,o=glue",
                {
                    "objectClass": ("GLUE2Domain", "GLUE2AdminDomain"),
                    "GLUE2DomainID": ("X",),
                    "GLUE2DomainDescription": ("Universität: " + "long " * 40,),
                },
            ),
        }
    )
    yield made.settings.port
    made.stop()


def ldapsearch(port: int, *words: str) -> str:
    command = [
        "ldapsearch",
        "-x",
        "-LLL",
        "-o",
        "ldif-wrap=76",
        "-H",
        f"ldap://localhost:{port}",
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize(
    "words",
    [
        ["-b", "o=glue"],
        ["-b", "o=glue", "(objectClass=GLUE2Group)"],
        ["-b", "o=glue", "objectClass=GLUE2Domain", "GLUE2DomainID"],
        ["-b", "GLUE2GroupID=cloud,o=glue", "GLUE2GroupID", "objectClass"],
        ["-b", "o=glue", "(GLUE2GroupID=none)"],
    ],
)
def test_entries_are_printed_as_ldapsearch_prints_them(
    words: list[str], port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """R33: the manual's options, in the manual's order."""
    assert main(["bdii", "search", "-x", "-p", str(port), "-h", "localhost", *words]) == 0
    *entries, count = capsys.readouterr().out.splitlines()
    expected = ldapsearch(port, *words)
    assert entries == expected.splitlines()
    assert count == f"# numEntries: {expected.count('dn: ') + expected.count('dn:: ')}"


@pytest.mark.parametrize("base", ["o=grid", "mds-vo-name=resource,o=grid", "Mds-Vo-name=X,o=grid"])
def test_a_search_in_glue_1_finds_nothing_and_succeeds(base: str, port: int) -> None:
    """F-I9: clients take LDAP's error 32 for a service that is down."""
    for scope in ("base", "one", "sub"):
        assert ldapsearch(port, "-s", scope, "-b", base, "(objectClass=GlueService)") == ""
    assert "o=glue" in ldapsearch(port, "-s", "base", "-b", "o=glue")


@pytest.mark.parametrize(("base", "status"), [("o=elsewhere", 32), ("", 32)])
def test_a_search_elsewhere_is_still_refused(base: str, status: int, port: int) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        ldapsearch(port, "-b", base, "(objectClass=GlueService)")
    assert refused.value.returncode == status


def test_nobody_can_write_below_glue_1(port: int, tmp_path: Path) -> None:
    entry = "dn: o=grid\nchangetype: add\nobjectClass: organization\no: grid\n"
    for url, cause in ((f"ldap://localhost:{port}", 8), (_socket_url(tmp_path), 53)):
        command = ["ldapmodify", "-H", url, *(("-Y", "EXTERNAL") if cause != 8 else ("-x",))]
        done = subprocess.run(
            command, input=entry, capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == cause, done.stderr


def _socket_url(directory: Path) -> str:
    read, _ = settings.read(directory / "bdii.conf", layout=Layout(directory))
    return f"ldapi://{quote(str(read.socket), safe='')}"


def test_an_address_in_one_word(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["bdii", "search", "-x", "-LLL", "-H", f"ldap://127.0.0.1:{port}", "-b", "o=glue"])
        == 0
    )
    assert "dn: GLUE2GroupID=cloud,o=glue" in capsys.readouterr().out
    assert main(["bdii", "search", "-H", "127.0.0.1"]) == 2
    assert (
        capsys.readouterr().err
        == "appliance: -H: '127.0.0.1' is not a URL of LDAP; write ldap://HOST:PORT\n"
    )


def test_a_missing_entry_or_server_is_one_line(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["-h", "127.0.0.1", "-p", str(port)]
    assert main(["bdii", "search", *place, "-b", "o=nowhere"]) == 3
    assert "o=nowhere: refused by the directory" in capsys.readouterr().err
    assert main(["bdii", "search", *place, "(a=b"]) == 3
    assert "'(a=b' is not a filter" in capsys.readouterr().err
    assert main(["bdii", "search", "-h", "127.0.0.1", "-p", "1"]) == 3
    assert capsys.readouterr().err.startswith(
        "appliance: 127.0.0.1:1: the directory does not answer: "
    )


def test_waiting_ends_when_ldap_answers(port: int) -> None:
    """R32."""
    began = time.monotonic()
    assert main(["bdii", "wait", "-p", str(port), "--timeout", "30"]) == 0
    assert time.monotonic() - began < 25


def test_waiting_outlasts_a_port_that_does_not_answer_yet(port: int) -> None:
    """R32: at first nothing listens, then a forwarder to slapd does."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        free = found.getsockname()[1]
    ended: list[float] = []

    def wait() -> None:
        assert main(["bdii", "wait", "-h", "127.0.0.1", "-p", str(free), "--timeout", "30"]) == 0
        ended.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(1)
    assert not ended
    opened = time.monotonic()
    with socket.create_server(("127.0.0.1", free)) as front:
        client, _ = front.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as behind:
            back = threading.Thread(target=_copy, args=(behind, client))
            back.start()
            _copy(client, behind)
            back.join()
    waiting.join(timeout=30)
    assert ended[0] >= opened


def _copy(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def test_waiting_in_vain_reports_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bdii", "wait", "-h", "127.0.0.1", "-p", "1", "--timeout", "1"]) == 3
    shown = capsys.readouterr().err
    assert shown.startswith(
        "appliance: 127.0.0.1:1: no answer within 1 s; last fault: the directory does not answer: "
    )
    assert shown.endswith("Connection refused; see appliance logs sitebdii\n")
    assert shown.count("\n") == 1
