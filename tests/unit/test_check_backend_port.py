"""C61.b, and the rows of the federation of 2017: what the host itself adds to images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.admin.check import backend, registry
from appliance.admin.check.finding import identify, in_profile
from appliance.admin.check.probe import CheckedSite
from appliance.core.run.finding import Finding
from tests.unit.test_check_host import rows, site

pytestmark = pytest.mark.root

CONFIG = "etc/cloudkeeper/cloudkeeper-os.conf"
OPEN = "[DEFAULT]\ngrpc_port = 50051\nlisten_address = 0.0.0.0\naccept_anyone_without_tls = true\n"
BRIDGE = """\
services:
  sitebdii:
    ports: ["2170:2170"]
  cloudkeeper-os:
    networks:
      ck:
        aliases: [backend]
      out: {}
"""


def made(
    root: Path, text: str = OPEN, *, network: str = "", is_native: bool = False
) -> CheckedSite:
    for name, content in {
        CONFIG: text,
        "etc/fedcloud/networks/bridge.yml": network or BRIDGE,
        "var/lib/fedcloud/version": "1.0.0\n",
        "var/lib/fedcloud/runtime": "native\n" if is_native else "\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return site(root)


def found(site: CheckedSite) -> list[tuple[str, str, int]]:
    root = str(site.layout.root)
    return [
        (row, path.removeprefix(f"{root}/"), line) for row, path, line in rows(backend.find(site))
    ]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (['    ports: ["50051:50051"]'], 9),
        (["    ports:", "      - 192.0.2.1:50051:50051"], 9),
        (["    ports:", "      - target: 50051", "        published: 50051"], 9),
    ],
)
def test_a_port_that_is_published(tmp_path: Path, lines: Sequence[str], line: int) -> None:
    """C61.b: the line of the network file; without the port, and with certificates, nothing."""
    network = BRIDGE + "".join(f"{each}\n" for each in lines)
    published = made(tmp_path, network=network)
    assert found(published) == [("C61.b", "etc/fedcloud/networks/bridge.yml", line)]
    (finding,) = backend.find(published)
    assert "appliance certificates" in finding.text
    assert found(made(tmp_path)) == []
    with_tls = OPEN.replace("accept_anyone_without_tls = true\n", "")
    assert found(made(tmp_path, with_tls, network=network)) == []


def test_a_port_on_loopback_alone(tmp_path: Path) -> None:
    """Nobody else can connect."""
    network = BRIDGE + '    ports: ["127.0.0.1:50051:50051", "[::1]:50051:50051"]\n'
    assert found(made(tmp_path, network=network)) == []
    for text in (OPEN.replace("= 0.0.0.0", "= 127.0.0.1"), OPEN.replace("listen", "#listen")):
        assert found(made(tmp_path, text, network=network.replace("127.0.0.1:", ""))) == []


def test_a_network_that_others_are_in(tmp_path: Path) -> None:
    """C61.b."""
    network = BRIDGE.replace("      out: {}", "      public: {}")
    opened = made(tmp_path, network=network)
    assert found(opened) == [("C61.b", "etc/fedcloud/networks/bridge.yml", 5)]
    network = "services:\n  cloudkeeper-os:\n    networks: [ck, out]\n"
    assert found(made(tmp_path, network=network)) == []


def test_the_network_of_the_host(tmp_path: Path) -> None:
    """C61.b: the line that switches TLS off."""
    network = "services:\n  cloudkeeper-os:\n    network_mode: host\n"
    assert found(made(tmp_path, network=network)) == [("C61.b", CONFIG, 4)]
    assert found(made(tmp_path, is_native=True)) == [("C61.b", CONFIG, 4)]
    assert found(made(tmp_path, "[DEFAULT]\n", is_native=True)) == []
    assert found(made(tmp_path, "[DEFAULT\n", is_native=True)) == []  # the backend reports it


def test_words_of_both_programs_about_tls() -> None:
    """C61.b: one id, whoever finds it."""
    words = "true: anyone who can connect to grpc_port can add and remove images of this cloud"
    assert identify("accept_anyone_without_tls", words) == "C61.b"
    words = "backend:50051 is used without TLS, so any host could answer in its place"
    assert identify("endpoint", words) == "C61.b"


@pytest.mark.parametrize(
    ("row", "of_2017", "of_others"),
    [
        ("C60.a", "C60.a", "C60"),
        ("C20.c", "C20.c", "C20.b"),
        ("C60.e", "C60.e", "C60.e"),
        ("C20.a", "C20.a", "C20.a"),
    ],
)
def test_rows_about_tokens_of_appdb(row: str, of_2017: str, of_others: str) -> None:
    """C20.c, C60.a: only where AppDB is used; the fault is found in any case."""
    fault = Finding("/etc/x", 1, "", "denied; renew it", row)
    assert in_profile(fault, "2017").identifier == of_2017
    for profile in ("egi", "private"):
        assert in_profile(fault, profile) == Finding("/etc/x", 1, "", fault.text, of_others)


class _Answers:
    """The answers of programs."""

    services = ("cloudkeeper", "cloudkeeper-os")

    def __init__(self, **found: Sequence[Finding]) -> None:
        self.findings = lambda name: found[name.replace("-", "_")]


def test_a_backend_that_has_the_cause_itself(tmp_path: Path) -> None:
    """C61 of the frontend says no more than C30.a of the backend; alone it stays."""
    listing = Finding("/etc/c.yml", 3, "", "cannot list", "C61", is_error=False)
    other = Finding("/etc/l.conf", 1, "", "expired", "C60.d")
    cause = Finding("/etc/b.conf", 7, "", "wrong password", "C30.a")
    checked = site(tmp_path)
    for found_by_backend, left in (([cause], [other]), ([], [listing, other])):
        answers = _Answers(cloudkeeper=[listing, other], cloudkeeper_os=found_by_backend)
        checked.programs = answers  # type: ignore[assignment]
        assert list(registry._of_program("cloudkeeper", checked)) == left
