"""What GOCDB and a handshake say of the endpoint: kept on disk, never in the way."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.core import clock
from appliance.core.cloud.login import Access
from appliance.core.run.errors import Unavailable
from cloud_info_provider import certificate
from cloud_info_provider.endpoint_lookup import EndpointLookup
from cloud_info_provider.facts import GocdbEntry, ServerCertificate
from tests.simulators.gocdb import Gocdb, Service
from tests.testbed.pki import Authority, Credential

KEYSTONE = "https://k.example.org:5000/v3"
OURS = Service("7G0", "EXAMPLE-SITE", KEYSTONE)
SECOND = Service("6G0", "EXAMPLE-SITE", "https://other.example.org/v3")
"""Another cloud of the site."""


@pytest.fixture
def gocdb() -> Iterator[Gocdb]:
    with Gocdb([SECOND, OURS]).serve() as served:
        yield served


def look_up_id(root: Path, gocdb: Gocdb | str, endpoint: str = KEYSTONE) -> GocdbEntry:
    # no handshake without verification
    return look_up(root, gocdb, endpoint, verify=False, patience=0.3)[0]


def look_up(
    root: Path, gocdb: Gocdb | str, endpoint: str, *, verify: bool | str, patience: float = 60
) -> tuple[GocdbEntry, ServerCertificate]:
    configuration = SimpleNamespace(
        endpoint=endpoint,
        gocdb_url=gocdb if isinstance(gocdb, str) else gocdb.url,
        site=SimpleNamespace(name="EXAMPLE-SITE"),
        yaml_file=Path("/etc/site.yaml"),
        access=Access("v3password", endpoint, {}, verify=verify),
    )
    lookup = EndpointLookup(cast("Any", configuration), root / "endpoint.json", patience=patience)
    lookup.start()
    return lookup.finish()


def set_age(root: Path, age: timedelta) -> None:
    path = root / "endpoint.json"
    entry = json.loads(path.read_text())
    for one in (known for endpoint in entry.values() for known in endpoint.values()):
        one["read"] = one["asked"] = (clock.now() - age).isoformat()
    path.write_text(json.dumps(entry))


def test_the_answer_is_kept_for_a_day(gocdb: Gocdb, tmp_path: Path) -> None:
    assert look_up_id(tmp_path, gocdb) == GocdbEntry("7G0", "EXAMPLE-SITE")
    assert gocdb.queries == [{"method": ["get_service"], "service_type": ["org.openstack.nova"]}]
    gocdb.services[1] = Service("8G0", "EXAMPLE-SITE", KEYSTONE)
    assert look_up_id(tmp_path, gocdb).id == "7G0"
    assert len(gocdb.queries) == 1
    set_age(tmp_path, timedelta(days=1, seconds=1))
    assert look_up_id(tmp_path, gocdb).id == "8G0"


@pytest.mark.long
def test_several_clouds_in_one_file(gocdb: Gocdb, tmp_path: Path) -> None:
    """A host may publish several; the look-up of one keeps the answers of the others."""
    assert look_up_id(tmp_path, gocdb).id == "7G0"
    assert look_up_id(tmp_path, gocdb, SECOND.url).id == "6G0"
    assert look_up_id(tmp_path, "http://127.0.0.1:9").id == "7G0"
    for number in range(30):  # EGI's catch-all reads 25 clouds
        look_up_id(tmp_path, "", f"https://{number}.example.org/v3")
    assert look_up_id(tmp_path, "http://127.0.0.1:9").id == "7G0"
    for number in range(210):
        look_up_id(tmp_path, "", f"https://{number}.example.org/v3")
    assert len(json.loads((tmp_path / "endpoint.json").read_text())) == 200


def test_a_clock_that_went_back_is_no_reason_to_wait(gocdb: Gocdb, tmp_path: Path) -> None:
    look_up_id(tmp_path, gocdb)
    set_age(tmp_path, timedelta(days=-400))
    look_up_id(tmp_path, gocdb)
    assert len(gocdb.queries) == 2


@pytest.mark.parametrize(
    "url",
    [
        "https://k.example.org:5000/v3/",
        "https://K.example.org:5000/v3",
    ],
)
def test_a_url_is_compared_as_a_place(gocdb: Gocdb, tmp_path: Path, url: str) -> None:
    gocdb.services[1] = Service("7G0", "EXAMPLE-SITE", "not a url[", more=("x", url))
    assert look_up_id(tmp_path, gocdb).id == "7G0"


@pytest.mark.parametrize("url", ["https://[half/v3", "https://k.example.org:many/v3"])
def test_an_entry_whose_url_is_none_stops_no_other(gocdb: Gocdb, tmp_path: Path, url: str) -> None:
    gocdb.services[0] = Service("9G0", "EXAMPLE-SITE", url)
    assert look_up_id(tmp_path, gocdb).id == "7G0"


def test_another_host_is_another_place(gocdb: Gocdb, tmp_path: Path) -> None:
    other = Service("9G0", "EXAMPLE-SITE", KEYSTONE.replace("k.example.org", "other.example.org"))
    gocdb.services = [other, OURS]
    assert look_up_id(tmp_path, gocdb).id == "7G0"


def test_a_proxy_that_does_not_answer_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert look_up_id(tmp_path, "https://gocdb.example.org/public/") == GocdbEntry()
    assert "the proxy 127.0.0.1:9" in caplog.text


def test_port_443_is_the_port_of_https(gocdb: Gocdb, tmp_path: Path) -> None:
    gocdb.services = [Service("7G0", "EXAMPLE-SITE", "https://k.example.org:443/v3")]
    assert look_up_id(tmp_path, gocdb, "https://k.example.org/v3").id == "7G0"


def test_port_80_is_the_port_of_http(gocdb: Gocdb, tmp_path: Path) -> None:
    gocdb.services = [
        Service("8G0", "EXAMPLE-SITE", "http://k.example.org:81/v3"),
        Service("7G0", "EXAMPLE-SITE", "http://k.example.org:80/v3"),
    ]
    assert look_up_id(tmp_path, gocdb, "http://k.example.org/v3").id == "7G0"


def test_of_two_sites_with_one_url_it_is_ours(
    gocdb: Gocdb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gocdb.services.insert(0, Service("1G0", "OTHER", KEYSTONE))
    assert look_up_id(tmp_path, gocdb).id == "7G0"
    gocdb.services.pop()
    assert look_up_id(tmp_path / "new", gocdb).id == "1G0"
    words = "/etc/site.yaml: GOCDB has this endpoint at the site OTHER, not EXAMPLE-SITE"
    assert words in caplog.text


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "down": ({"status": 503}, "GOCDB answers 503"),
    "page": ({"body": b"<html><p>"}, "something else than a list of services"),
    "entities in UTF-16": (
        {"body": "<!DOCTYPE x [<!ENTITY a 'b'>]><results>&a;</results>".encode("utf-16")},
        "something else",
    ),
    "entities": ({"body": b"<!DOCTYPE x [<!ENTITY a 'b'>]><results/>"}, "something else"),
    "none": ({"services": []}, "has no service org.openstack.nova with the URL"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_look_up_that_fails_keeps_the_last_answer(
    gocdb: Gocdb, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    look_up_id(tmp_path, gocdb)
    changes, words = FAULTS[name]
    for field, value in changes.items():
        setattr(gocdb, field, value)
    set_age(tmp_path, timedelta(days=90))
    assert look_up_id(tmp_path, gocdb).id == "7G0"
    assert words in caplog.text
    assert "; the answer of 20" in caplog.text
    # the next run does not ask again at once
    asked = len(gocdb.queries)
    assert look_up_id(tmp_path, gocdb).id == "7G0"
    assert len(gocdb.queries) == asked


def test_a_gocdb_that_hangs_holds_nothing_up(gocdb: Gocdb, tmp_path: Path) -> None:
    look_up_id(tmp_path, gocdb)
    set_age(tmp_path, timedelta(days=2))
    gocdb.delay = 5
    finished = threading.Event()

    def run() -> None:
        assert look_up_id(tmp_path, gocdb).id == "7G0"
        finished.set()

    threading.Thread(target=run, daemon=True).start()
    # it has finished while GOCDB still holds its answer back
    assert finished.wait(4.5)


def test_an_unknown_id_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert look_up_id(tmp_path, "http://127.0.0.1:9/") == GocdbEntry()
    assert "GOCDB cannot be reached: connection refused" in caplog.text
    assert "EGI ignores a site without it" in caplog.text
    caplog.clear()
    assert look_up_id(tmp_path / "off", "") == GocdbEntry()
    assert caplog.text == ""


@pytest.mark.parametrize("content", [b"[", b"[]", b'{"https://k.example.org:5000/v3": 7}'])
def test_a_damaged_memory_is_as_none(gocdb: Gocdb, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "endpoint.json").write_bytes(content)
    assert look_up_id(tmp_path, gocdb).id == "7G0"
    assert json.loads((tmp_path / "endpoint.json").read_bytes())[KEYSTONE]["gocdb"]["id"] == "7G0"


def test_a_memory_that_cannot_be_written_is_said(
    gocdb: Gocdb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert look_up_id(tmp_path / "file", gocdb).id == "7G0"
    assert "so the next run asks GOCDB again" in caplog.text


@contextlib.contextmanager
def openssl_server(host: Credential, users: Path) -> Iterator[int]:
    """Serve TLS as openssl does; it names the authorities of ``users`` to its clients."""
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-verify", "1", "-www"]
    files = ["-cert", host.certificate, "-key", host.key, "-CAfile", users]
    with subprocess.Popen(
        [*command, *map(str, files)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        line = next(line for line in server.stdout if line.startswith("ACCEPT "))
        try:
            yield int(line.rpartition(":")[2])
        finally:
            server.kill()


@pytest.mark.programs("openssl")
def test_the_authorities_of_a_handshake(tmp_path: Path) -> None:
    """An endpoint names the authorities of users' certificates, as EGI's guide demands."""
    authority = Authority.create(tmp_path / "ca", subject="/C=EU/O=Cloud/CN=Cloud CA")
    users = Authority.create(tmp_path / "users", subject="/C=NL/O=GEANT/CN=Users CA")
    host = authority.issue("localhost", hosts=["localhost", "127.0.0.1"])
    with openssl_server(host, users.certificate) as port:
        url, timeout = f"https://127.0.0.1:{port}/v3", timedelta(seconds=5)
        found = certificate.read(url, verify=str(authority.certificate), timeout=timeout)
        assert found.issuer == "/C=EU/O=Cloud/CN=Cloud CA"
        assert found.client_authorities == ("/C=NL/O=GEANT/CN=Users CA",)
        # who is not verified may claim anything
        with pytest.raises(Unavailable, match="cannot read the issuer of its certificate"):
            certificate.read(url, verify=str(users.certificate), timeout=timeout)
        assert certificate.issuer(url, verify=str(users.certificate), timeout=timeout) == ""
        assert certificate.read(url, verify=False, timeout=timeout) == ServerCertificate()


@pytest.mark.programs("openssl")
def test_a_handshake_that_fails_keeps_the_last_certificate(
    gocdb: Gocdb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority.create(tmp_path / "ca", subject="/C=EU/O=Cloud/CN=Cloud CA")
    host = authority.issue("localhost", hosts=["localhost", "127.0.0.1"])
    trusted = str(authority.certificate)
    with openssl_server(host, authority.certificate) as port:
        url = f"https://127.0.0.1:{port}/v3"
        gocdb.services.append(Service("9G0", "EXAMPLE-SITE", url))
        known = look_up(tmp_path, gocdb, url, verify=trusted)
        assert known[1].issuer == "/C=EU/O=Cloud/CN=Cloud CA"
    set_age(tmp_path, timedelta(days=2))
    assert look_up(tmp_path, gocdb, url, verify=trusted) == known
    assert "cannot read the issuer of its certificate: " in caplog.text
    assert "; the answer of 20" in caplog.text
