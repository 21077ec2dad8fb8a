"""C50.f, C50.g: the BDII as clients on other machines see it. slapd is the real one."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.admin.check import network, outside
from appliance.admin.check.probe import CheckedSite
from appliance.core import directory
from appliance.core.config.settings import Value
from appliance.core.run.errors import Unavailable
from tests.unit.test_check_host import rows, site
from tests.unit.test_check_published import GROUP, ROOT, slapd

pytestmark = [pytest.mark.root, pytest.mark.programs("slapd", "slapadd", "ldapsearch")]

DEFAULTS = Path("/etc/sitebdii/glite-info-site-defaults.conf")


def made(root: Path, port: int, *, host: str = "localhost", listen: str = "0.0.0.0") -> CheckedSite:  # noqa: S104
    path = root / "etc/fedcloud/appliance.env"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"FEDCLOUD_BDII_LISTEN={listen}:{port}\n")
    return site(root, Value("DEFAULT", "SITE_BDII_HOST", host, DEFAULTS, 2))


def entries(port: int) -> bytes:
    """Return the tree by OpenLDAP's own client, operational attributes included."""
    url = f"ldap://127.0.0.1:{port}"
    command = ["ldapsearch", "-x", "-LLL", "-H", url, "-b", "o=glue", "*", "+"]
    return subprocess.run(command, capture_output=True, check=True).stdout


@contextmanager
def open_to_all(directory: Path) -> Iterator[int]:
    """Run a slapd that anyone may write to, as its administrator may have set by mistake."""
    more = "allow update_anon\n"
    rights = "access to * by * write\n"
    with slapd(directory, ROOT + GROUP, first=more, last=rights) as port:
        yield port


def test_a_directory_that_anyone_may_write_to(tmp_path: Path) -> None:
    """C50.g: and the attempt leaves nothing."""
    with open_to_all(tmp_path / "open") as port:
        before = entries(port)
        (found,) = outside.find(made(tmp_path, port, listen="127.0.0.1"))
        assert (found.identifier, found.option) == ("C50.g", "sitebdii")
        assert "answered with code 16" in found.tried
        assert entries(port) == before
    with slapd(tmp_path / "shut", ROOT + GROUP) as port:
        before = entries(port)
        assert list(outside.find(made(tmp_path, port, listen="127.0.0.1"))) == []
        assert entries(port) == before


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("allow update_anon\n", "access to * by * read\n"),
        ("allow update_anon\n", "access to * by * write\nreadonly on\n"),
        ("", "access to * by * write\n"),
    ],
)
def test_refusals_are_no_finding(tmp_path: Path, first: str, last: str) -> None:
    """C50.g: insufficient rights, read-only, and no anonymous changes."""
    with slapd(tmp_path / "shut", ROOT, first=first, last=last) as port:
        assert list(outside.find(made(tmp_path, port, listen="127.0.0.1"))) == []
        with pytest.raises(Unavailable):
            directory.try_to_write("127.0.0.1", 1, "o=glue", timeout=outside._ANSWER)


def test_a_public_address_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C50.f: the line of the public name; slapd listens on one of two addresses of this machine."""
    monkeypatch.setattr(socket, "getaddrinfo", lookup("127.0.0.2"))
    with slapd(tmp_path / "one", ROOT) as port:
        proc = tmp_path / "proc/net"
        proc.mkdir(parents=True)  # in which nobody listens on loopback alone
        checked = made(tmp_path, port)
        checked.machine = type(checked.machine)(tmp_path / "proc")
        (found,) = outside.find(checked)
        assert rows([found]) == [("C50.f", str(DEFAULTS), 2)]
        assert f"but not on 127.0.0.2:{port}, the address of localhost" in found.text
        assert f"open inbound {port}/tcp" in found.text
        monkeypatch.setattr(socket, "getaddrinfo", lookup("127.0.0.1"))
        assert list(outside.find(checked)) == []
        monkeypatch.setattr(socket, "getaddrinfo", lookup("192.0.2.1"))
        monkeypatch.setattr(network, "_is_behind_translation", lambda _: False)
        monkeypatch.setattr(network, "_TIMEOUT", 0.2)
        assert list(outside.find(checked)) == []  # C07.b: another machine's address


@pytest.mark.parametrize(
    ("listen", "own"),
    [("0.0.0.0", "127.0.0.1"), ("[::]", "::1"), ("192.0.2.7", "192.0.2.7")],  # noqa: S104
)
def test_where_a_bdii_answers_on_this_machine(listen: str, own: str, tmp_path: Path) -> None:
    """A BDII that has no IPv4 is asked at the loopback of IPv6."""
    assert outside._own(made(tmp_path, 2170, listen=listen)) == (own, 2170)


def test_a_bdii_that_does_not_answer_here_or_listens_on_loopback(tmp_path: Path) -> None:
    """C50.a and C05.b, which other probes find."""
    assert list(outside.find(made(tmp_path, 1))) == []


def lookup(address: str) -> Callable[..., Any]:
    """Return a resolver for which localhost is this address."""
    real = socket.getaddrinfo

    def found(host: Any, *more: Any, **words: Any) -> Any:
        return real(address if host == "localhost" else host, *more, **words)

    return found
