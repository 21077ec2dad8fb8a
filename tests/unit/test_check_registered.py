"""C11, and C22 and C37 of a site that runs accounting only: what GOCDB has of this site."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.admin import settings
from appliance.admin.check import registered
from appliance.admin.check.inside import Depth
from appliance.admin.check.probe import CheckedSite
from appliance.admin.check.programs import Programs
from appliance.core import proxy
from appliance.core.config.settings import FACT, KEYSTONE, Value
from appliance.core.run.errors import ConfigurationError, Unavailable
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout
from tests.simulators.gocdb import Gocdb, Service
from tests.testbed import Authority

KEYSTONE_URL = "https://keystone.example.org:5000/v3"
CASO = Path("/etc/caso/caso.conf")
SENDER = Path("/etc/apel/sender.cfg")
BROKER = Value("broker", "host", "msg.argo.grnet.gr", SENDER, 0)
SITE = Value("DEFAULT", "site_name", "EXAMPLE-SITE", CASO, 3)
URL = Value(FACT, KEYSTONE, KEYSTONE_URL, CASO, 20)
DN = "/DC=EU/DC=EXAMPLE/C=ES/O=Hosts/CN=host.example.net"


class ReadValues(Programs):
    """Programs that have read these values."""

    def __init__(self, layout: Layout, values: Sequence[Value]) -> None:
        super().__init__(settings.load(layout), layout, {}, depth=Depth.LIVE)
        self._read = values

    @property
    def values(self) -> Sequence[Value]:
        return self._read


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"), key="ec")


@pytest.fixture
def gocdb(authority: Authority) -> Iterator[Gocdb]:
    """Serve the site's cloud, and another site's sender."""
    own = authority.issue("gocdb.example.net", hosts=["127.0.0.1"], key="ec")
    services = [
        Service("1G0", "EXAMPLE-SITE", KEYSTONE_URL),
        Service("2G0", "OTHER-SITE", "", kind=SENDERS, dn="/C=NL/O=Other/CN=other.example.net"),
    ]
    with Gocdb(services).serve(own) as served:
        yield served


SENDERS = "eu.egi.cloud.accounting"


def register(gocdb: Gocdb, dn: str) -> None:
    gocdb.services[2:] = [Service("3G0", "EXAMPLE-SITE", "", kind=SENDERS, dn=dn)]


@pytest.fixture
def root(tmp_path: Path, authority: Authority, gocdb: Gocdb) -> Path:
    own = authority.issue("host.example.net", key="ec", prefix="/DC=EU/DC=EXAMPLE/C=ES/O=Hosts")
    grid = tmp_path / "etc/grid-security"
    grid.mkdir(parents=True)
    shutil.copy(own.certificate, grid / "hostcert.pem")
    (tmp_path / "etc/fedcloud").mkdir()
    write(tmp_path, gocdb=gocdb.url)
    environment = f"FEDCLOUD_CA_BUNDLE={authority.certificate}\n"
    (tmp_path / "etc/fedcloud/appliance.env").write_text(environment)
    return tmp_path


def write(root: Path, *, profile: str = "egi", **services: str) -> None:
    lines = [f"profile: {profile}", "egi:", *(f"  {name}: {url}" for name, url in services.items())]
    (root / "etc/fedcloud/appliance.yaml").write_text("\n".join(lines) + "\n")


def site(root: Path, *values: Value, as_egi: bool = False) -> CheckedSite:
    layout = Layout(root)
    programs = ReadValues(layout, values)
    host = settings.load(layout)
    return CheckedSite(host, layout, datetime.now(UTC), programs, is_as_egi=as_egi)


def c11(root: Path, *values: Value, as_egi: bool = False) -> list[Finding]:
    return list(registered.of_certificate(site(root, *values, as_egi=as_egi)))


def test_a_name_that_gocdb_has(root: Path, gocdb: Gocdb) -> None:
    register(gocdb, DN)
    assert c11(root, BROKER) == []
    assert gocdb.queries == [{"method": ["get_service"], "service_type": [SENDERS]}]


def test_a_name_that_gocdb_has_not(root: Path, gocdb: Gocdb) -> None:
    """C11.a: the name in both forms, as GOCDB and as RFC 2253 write it; silent once it is there."""
    (found,) = c11(root, BROKER)
    assert (found.identifier, found.path, found.line, found.is_error) == (
        "C11.a",
        f"{root}/etc/grid-security/hostcert.pem",
        0,
        True,
    )
    assert f"write {DN} as the Host DN" in found.text
    assert found.text.endswith("(RFC 2253: CN=host.example.net,O=Hosts,C=ES,DC=EXAMPLE,DC=EU)")
    assert found.tried == f"GET {gocdb.url}?method=get_service&service_type={SENDERS}"
    register(gocdb, DN)
    assert c11(root, BROKER) == []


@pytest.mark.parametrize(
    "dn",
    [
        "CN=host.example.net,O=Hosts,C=ES,DC=EXAMPLE,DC=EU",
        "DC=EU, DC=EXAMPLE, C=ES, O=Hosts, CN=host.example.net",
        "/dc=EU/dc=EXAMPLE/C=ES/O=Hosts/CN=Host.Example.net",
        "/DC=EU/DC=EXAMPLE/C=ES/O=Hosts /CN=host.example.net",
    ],
)
def test_a_name_that_gocdb_has_in_another_spelling(dn: str, root: Path, gocdb: Gocdb) -> None:
    """C11.b."""
    register(gocdb, dn)
    (found,) = c11(root, BROKER)
    assert (found.identifier, found.path) == (
        "C11.b",
        f"{root}/etc/grid-security/hostcert.pem",
    )
    assert f"GOCDB has this name as {dn}, " in found.text
    assert f"write exactly {DN} there" in found.text


@pytest.mark.parametrize(
    "dn",
    [
        "/DC=EU/DC=EXAMPLE/C=ES/O=Hosts/CN=host2.example.net",
        "/DC=EU/DC=EXAMPLE/C=ES/O=Hosts/OU=x/CN=host.example.net",
        "/C=ES/O=Hosts/CN=host.example.net",
    ],
)
def test_another_name_is_no_spelling_of_ours(dn: str, root: Path, gocdb: Gocdb) -> None:
    register(gocdb, dn)
    assert [one.identifier for one in c11(root, BROKER)] == ["C11.a"]


def test_who_does_not_send_to_egi_is_not_compared(root: Path, gocdb: Gocdb) -> None:
    """A private federation, a broker of another one, and a site that sends nothing."""
    other = Value("broker", "host", "broker.example.net", SENDER, 4)
    assert c11(root, other) == []
    assert c11(root) == []
    assert c11(root, as_egi=True) == []
    write(root, profile="private", gocdb=gocdb.url)
    assert c11(root, BROKER) == []
    write(root, gocdb="")
    assert c11(root, BROKER, as_egi=True) == []
    assert gocdb.queries == []
    write(root, gocdb=gocdb.url)
    assert [one.identifier for one in c11(root, other, as_egi=True)] == ["C11.a"]


def test_a_gocdb_that_hides_the_names(root: Path, gocdb: Gocdb) -> None:
    gocdb.services[1:] = [Service("3G0", "EXAMPLE-SITE", "", kind=SENDERS)]
    made = site(root, BROKER)
    assert list(registered.of_certificate(made)) == []
    assert made.notes == [("C11", "GOCDB shows no names of certificates; compare it there by hand")]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"<html>", 200, "GOCDB answers with something else than a list of services"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><results/>', 200, "something else than a list"),
        (b"", 503, "answers 503 Service Unavailable to GET /gocdbpi/public/"),
    ],
)
def test_a_gocdb_that_does_not_answer(
    body: bytes, status: int, words: str, root: Path, gocdb: Gocdb
) -> None:
    """It is no fault of the site, but one of the check if EGI's view was asked for."""
    gocdb.body, gocdb.status = body, status
    made = site(root, BROKER)
    assert list(registered.of_certificate(made)) == []
    ((row, text),) = made.notes
    assert (row, text.startswith("not compared with GOCDB: 127.0.0.1")) == ("C11", True)
    assert words in text
    with pytest.raises(Unavailable, match="check gocdb in the block egi of") as raised:
        c11(root, BROKER, as_egi=True)
    assert words in str(raised.value)


def test_an_authority_that_is_not_trusted(root: Path, gocdb: Gocdb) -> None:
    (root / "etc/fedcloud/appliance.env").write_text("")
    with pytest.raises(Unavailable, match="certificate is not trusted"):
        c11(root, BROKER, as_egi=True)


@pytest.mark.parametrize("url", ["http://goc.example.org/", "https://a:b@goc.example.org/", "goc"])
def test_a_url_without_tls_is_refused(url: str, root: Path) -> None:
    write(root, information=url)
    with pytest.raises(ConfigurationError) as raised:
        settings.load(Layout(root))
    assert f"{root}/etc/fedcloud/appliance.yaml:3: " in str(raised.value)
    assert "write https://HOST/PATH" in str(raised.value)
    assert "a:b" not in str(raised.value)


# --------------------------------------------------------------------------------------------------
# a site without the provider


def of_cloud(root: Path, *values: Value) -> list[tuple[str, str, int]]:
    found = registered.of_cloud(site(root, *values, as_egi=True))
    return [(one.identifier, one.path, one.line) for one in found]


def test_name_and_endpoint_of_a_site_of_accounting(root: Path, gocdb: Gocdb) -> None:
    """C22.b and C37.a, in the lines of caso.conf; silent once GOCDB has them."""
    assert of_cloud(root, SITE, URL) == []
    gocdb.services[0] = Service("1G0", "EXAMPLE-SITE", "https://keystone.example.org:5000/")
    assert of_cloud(root, SITE, URL) == [("C37.a", str(CASO), 20)]
    gocdb.services[0] = Service("1G0", "EXAMPLE_SITE", KEYSTONE_URL)
    assert of_cloud(root, SITE, URL) == [("C22.b", str(CASO), 3)]
    gocdb.services[0] = Service("1G0", "EXAMPLE-SITE", KEYSTONE_URL)
    assert of_cloud(root, SITE, URL) == []
    assert of_cloud(root, SITE) == []


def test_proxies_of_overlapping_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes run at the same time, and none takes the proxies of another away."""
    monkeypatch.setenv("https_proxy", "http://before.example.org:1")
    named = {"HTTPS_PROXY": "http://ours.example.org:2"}
    first, second = proxy.environment(named), proxy.environment(named)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    held = proxy.find("https://x.example.org/")
    assert held is not None
    assert held.hostname == "ours.example.org"
    second.__exit__(None, None, None)
    left = proxy.find("https://x.example.org/")
    assert left is not None
    assert left.hostname == "before.example.org"
