"""C70 and C72: what EGI's service says of a site, and what Keystone offers to its clients."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.admin.check import as_egi, client_authorities, served_site
from appliance.admin.command import main
from appliance.admin.egi import EgiServices
from appliance.core.config.settings import FACT, KEYSTONE, VO, Value
from appliance.core.run.errors import Unavailable
from appliance.core.run.finding import Finding
from tests.simulators.information_service import InformationService
from tests.testbed import Authority
from tests.unit.test_check_registered import CASO, site, write
from tests.unit.test_publishing import ENDPOINT, document
from tests.unit.test_publishing import SITE as PUBLISHED

REF = "egi_vm_images/ubuntu:24.04"
OPS, BIOMED = Value(FACT, VO, "ops", CASO, 7), Value(FACT, VO, "biomed", CASO, 8)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"), key="ec")


# --------------------------------------------------------------------------------------------------
# C70


def with_images(*vos: str, **more: Any) -> str:
    """Return the site's JSON, in which an image of these VOs is one of the registry."""
    read = json.loads(document(**more))
    for one in read["CloudComputingImage"]:
        if one["ID"].partition("-")[0] in vos:
            one["MarketplaceURL"] = f"registry.egi.eu/{REF}-sha256:1"
            one["OtherInfo"] = {"eu.egi.cloud.image_ref": REF, "eu.egi.cloud.tag": "24.04"}
    return json.dumps(read)


@pytest.fixture
def egi(authority: Authority) -> Iterator[InformationService]:
    own = authority.issue("is.example.net", hosts=["127.0.0.1"], key="ec")
    vos = {
        one["Associations"]["PolicyUserDomain"][0]
        for one in json.loads(document())["MappingPolicy"]
    }
    with InformationService({"x.json": with_images(*vos)}).serve(own) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path, authority: Authority, egi: InformationService) -> Path:
    (tmp_path / "etc/fedcloud").mkdir(parents=True)
    write(tmp_path, information=egi.url)
    environment = f"FEDCLOUD_CA_BUNDLE={authority.certificate}\n"
    (tmp_path / "etc/fedcloud/appliance.env").write_text(environment)
    return tmp_path


def vos() -> list[Value]:
    named = {
        one["Associations"]["PolicyUserDomain"][0]
        for one in json.loads(document())["MappingPolicy"]
    }
    return [Value(FACT, VO, name, CASO, 7) for name in sorted(named)]


def url(text: str = ENDPOINT) -> Value:
    return Value(FACT, KEYSTONE, text, CASO, 20)


def c70(root: Path, *values: Value) -> list[Finding]:
    name = Value("DEFAULT", "site_name", PUBLISHED, CASO, 3)
    return list(served_site.find(site(root, name, *values, as_egi=True)))


def rows(found: Sequence[Finding]) -> list[tuple[str, str, int, bool]]:
    return [(one.identifier, one.path, one.line, one.is_error) for one in found]


def test_a_site_that_egi_serves(root: Path, egi: InformationService) -> None:
    """The URL with and without the usual port; a site of another name with our URL is ours."""
    assert c70(root, url(), *vos()) == []
    named = Value("DEFAULT", "site_name", "OTHER", CASO, 3)
    found = served_site.find(site(root, named, url(), *vos(), as_egi=True))
    assert list(found) == []
    plain = "https://keystone.example.org/v3"
    egi.documents["x.json"] = with_images(*(one.text for one in vos()), url=plain)
    assert c70(root, url("https://keystone.example.org:443/v3"), *vos()) == []
    assert c70(root, *vos()) == []  # no program has said which Keystone this is


def test_a_keystone_that_egi_does_not_know(root: Path, egi: InformationService) -> None:
    """C70.a: the site has another URL there, or is missing; silent once it is there."""
    ours = url("https://new.example.org:5000/v3")
    (found,) = c70(root, ours, *vos())
    assert rows([found]) == [("C70.a", str(CASO), 20, True)]
    assert f"the site {PUBLISHED} has the URL {ENDPOINT} there" in found.text
    kept = dict(egi.documents)
    egi.documents.clear()
    (found,) = c70(root, ours)
    assert "no site there has this URL" in found.text
    egi.documents.update(kept)
    assert c70(root, url(), *vos()) == []


def test_a_vo_that_egi_does_not_list(root: Path) -> None:
    """C70.b, in the line of the VO."""
    new = Value(FACT, VO, "new.example.org", CASO, 9)
    assert rows(c70(root, url(), *vos(), new)) == [("C70.b", str(CASO), 9, False)]


def test_a_vo_without_images_of_the_registry(root: Path, egi: InformationService) -> None:
    """C70.c: users find images of the registry alone."""
    egi.documents["x.json"] = with_images("ops")
    found = c70(root, url(), *vos())
    assert [one.identifier for one in found] == ["C70.c"] * (len(vos()) - 1)
    assert "ops" not in {one.option for one in found}


def test_an_object_that_has_expired(root: Path, egi: InformationService) -> None:
    """C70.d: the service itself shows no times, its object does."""
    write(root, information=f"{egi.url}/objects/x.json")
    assert c70(root, url(), *vos()) == []
    named = [one.text for one in vos()]
    egi.documents["x.json"] = with_images(*named, age=timedelta(hours=30))
    assert rows(c70(root, url(), *vos())) == [("C70.d", str(CASO), 20, False)]


def test_two_objects_of_one_site(root: Path, egi: InformationService) -> None:
    egi.documents["y.json"] = egi.documents["x.json"]
    (found,) = c70(root, url(), *vos())
    assert found.identifier == "C70"
    assert f"is there as {PUBLISHED} and as {PUBLISHED}-" in found.text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, b"<html>", {}), "is not JSON; check information in the block egi of "),
        ((200, b'[{"x": 1}]', {}), "not those of EGI's information service"),
        ((502, b"", {}), "answers 502"),
        ((302, b"", {"Location": "https://elsewhere.example.org/"}), "write that URL with "),
    ],
)
def test_a_service_that_answers_something_else(
    answer: tuple[int, bytes, dict[str, str]], words: str, root: Path, egi: InformationService
) -> None:
    egi.answers["/sites/"] = answer
    with pytest.raises(Unavailable) as raised:
        c70(root, url(), *vos())
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


# --------------------------------------------------------------------------------------------------
# C72


@pytest.fixture(scope="module")
def igtf(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Authority]:
    names = ("/C=NL/O=GEANT/CN=Users CA", "/DC=EU/DC=EXAMPLE/CN=Another CA")
    top = tmp_path_factory.mktemp("igtf")
    return [
        Authority.create(top / str(number), subject=name, key="ec")
        for number, name in enumerate(names)
    ]


@contextmanager
def keystone(
    authority: Authority, offered: Sequence[Authority], *flags: str, directory: Path
) -> Iterator[Value]:
    """Serve TLS as openssl does; with ``-verify`` it asks clients for a certificate of these."""
    own = authority.issue("keystone.example.net", hosts=["127.0.0.1"], key="ec")
    bundle = directory / "offered.pem"
    bundle.write_text("".join(one.certificate.read_text() for one in offered))
    files = ["-cert", own.certificate, "-key", own.key, *(["-CAfile", bundle] if offered else [])]
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-www", *flags, *map(str, files)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        line = next(line for line in server.stdout if line.startswith("ACCEPT "))
        try:
            yield url(f"https://127.0.0.1:{line.rpartition(':')[2].strip()}/v3")
        finally:
            server.kill()


ASKING = ("-verify", "1")


def c72(root: Path, *values: Value) -> tuple[list[Finding], list[str]]:
    made = site(root, *values, as_egi=True)
    return list(client_authorities.find(made)), [text for _, text in made.notes]


@pytest.fixture
def trusted(root: Path, igtf: Sequence[Authority]) -> Path:
    for one in igtf:
        one.publish(root / "etc/grid-security/certificates")
    return root


@pytest.mark.programs("openssl")
@pytest.mark.parametrize("flags", [(), ("-tls1_3",), ("-tls1_2",)])
def test_a_keystone_that_offers_the_authorities(
    flags: Sequence[str], trusted: Path, authority: Authority, igtf: Sequence[Authority]
) -> None:
    with keystone(authority, [*igtf, authority], *ASKING, *flags, directory=trusted) as served:
        assert c72(trusted, served) == ([], [])


@pytest.mark.programs("openssl")
def test_a_keystone_that_lacks_an_authority(
    trusted: Path, authority: Authority, igtf: Sequence[Authority]
) -> None:
    """C72: the name as GOCDB and openssl write it."""
    with keystone(authority, igtf[:1], *ASKING, directory=trusted) as served:
        ((found,), _) = c72(trusted, served)
    assert rows([found]) == [("C72", str(CASO), 20, False)]
    directory = f"{trusted}/etc/grid-security/certificates"
    text = f"does not offer 1 of the 2 authorities in {directory}, such as "
    assert f"{text}/DC=EU/DC=EXAMPLE/CN=Another CA, so" in found.text


@pytest.mark.programs("openssl")
@pytest.mark.parametrize(
    ("asks", "words"),
    [
        ((), "asks its clients for no certificate (TLSv1.2; a server that asks later,"),
        (ASKING, "asks for a certificate and names no authority (TLSv1.2)"),
    ],
)
def test_a_keystone_that_offers_nothing(
    asks: Sequence[str], words: str, trusted: Path, authority: Authority
) -> None:
    """C72 says what cannot be seen, too."""
    with keystone(authority, [], *asks, directory=trusted) as served:
        ((found,), _) = c72(trusted, served)
    assert found.identifier == "C72"
    assert words in found.text


@pytest.mark.programs("openssl")
def test_a_list_that_cannot_be_seen_is_a_note(
    trusted: Path, authority: Authority, igtf: Sequence[Authority], egi: InformationService
) -> None:
    """No authorities here, no trust, no TLS, nobody there."""
    with keystone(igtf[0], igtf, directory=trusted) as served:
        found, (text,) = c72(trusted, served)
        assert found == []
        assert "what Keystone offers to clients could not be seen: 127.0.0.1" in text
    assert c72(trusted, url("http://127.0.0.1:1/v3")) == (
        [],
        ["Keystone is reached without TLS, so it offers nothing"],
    )
    assert c72(trusted) == ([], [])
    shutil.rmtree(trusted / "etc/grid-security")
    found, (text,) = c72(trusted, url())
    assert (found, "has no authorities" in text) == ([], True)


# --------------------------------------------------------------------------------------------------
# who looks


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["caso", "ssmsend", "cloudbdii"], {"caso": "cloud", "cloudbdii": "auditor"}),
        (["cloud-info", "cloudbdii"], {"cloudbdii": "cloud,auditor"}),
        (["caso"], {"caso": "cloud"}),
        (["ssmsend"], {}),
    ],
)
def test_one_program_looks_at_the_cloud(names: list[str], expected: dict[str, str]) -> None:
    services = EgiServices("", "", "", "", "ops", "")
    found = as_egi.flags(names, services, writes=True)
    assert {name: words[1] for name, words in found.items()} == expected
    assert [name for name, words in found.items() if "--write" in words] == [
        name for name, part in expected.items() if "cloud" in part
    ]


@pytest.mark.parametrize("url", ["https://gocdb.example.org/api/", ""])
def test_a_gocdb_of_the_site_is_the_provider_s_too(url: str) -> None:
    services = EgiServices(url, "", "", "", "ops", "")
    found = as_egi.of_gocdb(["caso", "cloudbdii", "cloud-info"], services)
    assert found == dict.fromkeys(("cloudbdii", "cloud-info"), (f"--gocdb-url={url}",))
    usual = EgiServices("https://goc.egi.eu/gocdbpi/public/", "", "", "", "ops", "")
    assert as_egi.of_gocdb(["cloudbdii"], usual) == {}


def test_the_settings_reach_the_programs() -> None:
    services = EgiServices("", "", "https://p.example.org/m", REF, "vo.x", "auditor")
    found = as_egi.flags(["caso", "cloudbdii"], services, writes=False)
    assert found == {
        "caso": (
            *("--as-egi", "cloud,portal", "--egi-vo", "vo.x", "--egi-image", REF),
            *("--portal-url", "https://p.example.org/m"),
        ),
        "cloudbdii": (
            *("--as-egi", "auditor", "--egi-vo", "vo.x", "--egi-image", REF),
            *("--auditor-role-cloud", "auditor"),
        ),
    }


@pytest.mark.root
def test_as_egi_contacts_others(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "var/lib/fedcloud").mkdir(parents=True)
    (root / "var/lib/fedcloud/runtime").write_text("native\n")
    assert main(["check", "--as-egi", "--offline", "--root", str(root)]) == 2
    assert "--as-egi: contacts services of EGI; leave out --offline" in capsys.readouterr().err
