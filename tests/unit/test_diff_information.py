"""`appliance diff information`: the site's JSON beside what EGI's service serves of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.admin import web_reader
from appliance.admin.command import main
from tests.simulators.information_service import InformationService
from tests.unit.test_publishing import ENDPOINT, GOCDB_ID, SITE, document

pytestmark = pytest.mark.usefixtures("few_system_authorities")

TOP = Path(__file__).parents[2]
REF = "egi_vm_images/ubuntu:24.04"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "etc/fedcloud"
    place.mkdir(parents=True)
    for name in ("appliance.yaml", "appliance.env"):
        shutil.copy(TOP / "etc/fedcloud" / name, place)
    write(tmp_path, document())
    return tmp_path


@pytest.fixture
def egi() -> Iterator[InformationService]:
    with InformationService({"x.json": document()}).serve() as made:
        yield made


def write(root: Path, text: str) -> Path:
    path = root / "var/lib/fedcloud/cloud-info/information.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def diff(root: Path, *words: str) -> int:
    return main(["diff", "information", "--root", str(root), *words])


def with_registry(version: str, *, name: str = REF, image: str = "ops-0") -> str:
    read = json.loads(document())
    (found,) = (one for one in read["CloudComputingImage"] if one["ID"] == "ops-0")
    found |= {
        "ID": image,
        "MarketplaceURL": f"registry.egi.eu/{name}-sha256:1",
        "OtherInfo": {"eu.egi.cloud.image_ref": name, "eu.egi.cloud.tag": version},
    }
    return json.dumps(read)


def rows(text: str) -> list[list[str]]:
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("WHAT"))
    return [" ".join(line.split()).split(" ") for line in lines[start + 1 :]]


def with_second_project() -> str:
    read = json.loads(document())
    share, policy = dict(read["Share"][0]), dict(read["MappingPolicy"][0])
    assert policy["Associations"] == {"Share": [share["ID"]], "PolicyUserDomain": ["ops"]}
    read["Share"].append(share | {"ID": "again", "ProjectID": "p-again"})
    policy["Associations"] = {"Share": ["again"], "PolicyUserDomain": ["ops"]}
    read["MappingPolicy"].append(policy | {"ID": "again_Policy"})
    return json.dumps(read)


def test_same(root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(root, "--url", egi.url) == 0
    shown = capsys.readouterr()
    assert f"HERE   {SITE}: {root}/var/lib/fedcloud/cloud-info/information.json, of 0 min" in (
        shown.out
    )
    assert "No difference: 2 VOs, 8 images.\n" in shown.out
    assert shown.err == ""
    assert egi.paths == ["/sites/", f"/site/{SITE}/projects", f"/site/{SITE}/images"]


@pytest.mark.parametrize("url", [f"{ENDPOINT}/", ENDPOINT, "https://KEYSTONE.example.org:5000/v3"])
def test_same_url_in_another_spelling(root: Path, egi: InformationService, url: str) -> None:
    egi.documents["x.json"] = document(url=url)
    assert diff(root, "--url", egi.url) == 0


def test_port_443_with_and_without(root: Path, egi: InformationService) -> None:
    """EGI's probe accepts the URL of GOCDB with and without ``:443``."""
    write(root, document(url="https://keystone.example.org/v3"))
    egi.documents["x.json"] = document(url="https://keystone.example.org:443/v3")
    assert diff(root, "--url", egi.url) == 0
    egi.documents["x.json"] = document(url="https://keystone.example.org:444/v3")
    assert diff(root, "--url", egi.url) == 1


def test_each_kind_of_difference(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    served = json.loads(with_registry("24.04"))
    served["CloudComputingEndpoint"][0]["URL"] = "https://other.example.org/v3"
    served["MappingPolicy"][1]["Associations"]["PolicyUserDomain"] = ["gone"]
    served["Share"][0]["ProjectID"] = "p-old"
    served["CloudComputingImage"] = [
        one for one in served["CloudComputingImage"] if one["ID"] != "ops-1"
    ]
    egi.documents["x.json"] = json.dumps(served)
    write(root, with_registry("24.10"))
    assert diff(root, "--url", egi.url) == 1
    found = rows(capsys.readouterr().out)
    flat = [" ".join(row) for row in found]
    assert f"url Keystone {ENDPOINT} https://other.example.org/v3" in flat
    assert "VO biomed published -" in flat
    assert "VO gone - listed" in flat
    assert "project ops p-ops p-old" in flat
    assert f"image ops {REF} version 24.10, id ops-0 version 24.04, id ops-0" in flat
    assert "image ops ops-1 present -" in flat
    assert len(flat) == 6


def test_several_projects_of_a_vo(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    """In any order; a project that one side lacks is a difference."""
    write(root, with_second_project())
    turned = json.loads(with_second_project())
    turned["Share"].reverse()
    egi.documents["x.json"] = json.dumps(turned)
    assert diff(root, "--url", egi.url) == 0
    capsys.readouterr()
    egi.documents["x.json"] = document()
    assert diff(root, "--url", egi.url) == 1
    (row,) = rows(capsys.readouterr().out)
    assert " ".join(row) == "project ops p-again, p-ops p-ops"


def test_image_that_is_there_twice(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new version is uploaded before the old one goes; both sides list them in any order."""
    read = json.loads(with_registry("24.04"))
    (old,) = (one for one in read["CloudComputingImage"] if one["ID"] == "ops-0")
    other = {"eu.egi.cloud.image_ref": REF, "eu.egi.cloud.tag": "24.10"}
    read["CloudComputingImage"].append(old | {"ID": "new-id", "OtherInfo": other})
    write(root, json.dumps(read))
    read["CloudComputingImage"].reverse()
    egi.documents["x.json"] = json.dumps(read)
    assert diff(root, "--url", egi.url) == 0
    capsys.readouterr()
    egi.documents["x.json"] = with_registry("24.04")
    assert diff(root, "--url", egi.url) == 1
    (row,) = rows(capsys.readouterr().out)
    both = "version 24.04, id ops-0; version 24.10, id new-id"
    assert " ".join(row) == f"image ops {REF} {both} version 24.04, id ops-0"


def test_image_that_was_uploaded_anew(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, with_registry("24.04", image="new-id"))
    egi.documents["x.json"] = with_registry("24.04")
    assert diff(root, "--url", egi.url) == 1
    (row,) = rows(capsys.readouterr().out)
    assert " ".join(row) == (f"image ops {REF} version 24.04, id new-id version 24.04, id ops-0")


def test_site_that_is_not_listed(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    egi.documents = {"x.json": document(site="OTHER", gocdb_id="2G0")}
    assert diff(root, "--url", egi.url) == 1
    shown = capsys.readouterr().out
    assert rows(shown)[0] == ["site", SITE, "published", "-"]
    assert f"No site {SITE} is listed: check GOCDB" in shown


def test_two_objects_of_one_id(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    egi.documents["y.json"] = document(url="https://old.example.org/v3")
    assert diff(root, "--url", egi.url) == 1
    assert rows(capsys.readouterr().out) == [["site", f"{SITE}-{GOCDB_ID}", "-", "listed", "too"]]


def test_second_object_that_is_listed_first(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [
        {"id": GOCDB_ID, "name": name, "url": ENDPOINT, "state": "", "hostname": "h"}
        for name in (f"{SITE}-{GOCDB_ID}", SITE)
    ]
    egi.answers["/sites/"] = (200, json.dumps(listed).encode(), {})
    assert diff(root, "--url", egi.url) == 1
    assert rows(capsys.readouterr().out) == [["site", f"{SITE}-{GOCDB_ID}", "-", "listed", "too"]]
    assert f"/site/{SITE}/images" in egi.paths


def test_site_under_another_name(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    egi.documents["x.json"] = document(site="OLD-NAME")
    assert diff(root, "--url", egi.url) == 1
    assert rows(capsys.readouterr().out) == [["site", "name", SITE, "OLD-NAME"]]


def test_expired_file(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, document(age=timedelta(hours=20)))
    assert diff(root, "--url", egi.url) == 1
    (row,) = rows(capsys.readouterr().out)
    assert " ".join(row) == "age expired expired 8 hours ago, read 20 hours ago -"


def test_object_has_flavors_and_times(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    served = json.loads(document(age=timedelta(hours=13)))
    served["CloudComputingInstanceType"][0]["Name"] = "old-flavor"
    egi.documents["x.json"] = json.dumps(served)
    assert diff(root, "--url", f"{egi.url}/objects/x.json") == 1
    flat = [" ".join(row) for row in rows(capsys.readouterr().out)]
    assert flat == [
        "age expired - expired 60 minutes ago, read 13 hours ago",
        "flavor biomed f-biomed present -",
        "flavor biomed old-flavor - present",
    ]


def test_json(root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]) -> None:
    egi.documents["x.json"] = document("ops")
    assert diff(root, "--url", egi.url, "--json") == 1
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["site"] == SITE
    assert shown["is_listed"]
    assert "flavors" not in shown["compared"]
    assert {"what": "VO", "vo": "biomed", "subject": "", "here": "published", "there": ""} in (
        shown["differences"]
    )


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        ("/sites/", (503, b"", {}), "answers 503 Service Unavailable to GET /sites/"),
        ("/sites/", (200, b"<html>", {}), "the answer to GET /sites/ is not JSON"),
        ("/sites/", (200, b"[" * 100_000, {}), "the answer to GET /sites/ is not JSON"),
        ("/sites/", (200, b"{}", {}), ""),
        ("/sites/", (200, b'[{"name": 1}]', {}), "are not those of EGI's information service"),
        ("/sites/", (200, b"null", {}), "are not those of EGI's information service"),
        (f"/site/{SITE}/images", (200, b"[1]", {}), "are not those of EGI's"),
        (f"/site/{SITE}/projects", (404, b"", {}), "answers 404"),
        ("/sites/", (302, b"", {"Location": "http://127.0.0.2/x"}), "redirects /sites/ to 127"),
        ("/sites/", (302, b"", {"Location": "/sites/"}), "answers 302"),
        ("/sites/", (302, b"", {"Location": "http://[x"}), "redirects /sites/ to no URL"),
        ("/sites/", (302, b"", {"Location": "http://127.0.0.1:x/"}), "redirects /sites/ to"),
    ],
)
def test_service_that_is_none(
    root: Path,
    egi: InformationService,
    path: str,
    answer: tuple[int, bytes, dict[str, str]],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    egi.answers[path] = answer
    status = diff(root, "--url", egi.url)
    shown = capsys.readouterr().err
    if not words:  # an empty listing: the site is not in it
        assert status == 1
        return
    assert status == 3
    assert words in shown
    assert shown.count("\n") == 1


def test_redirect_on_the_same_host(root: Path, egi: InformationService) -> None:
    egi.answers[f"/site/{SITE}/images"] = (307, b"", {"Location": f"/site/{SITE}/images/"})
    assert diff(root, "--url", egi.url) == 0


def test_nobody_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(root, "--url", "http://127.0.0.1:9") == 3
    shown = capsys.readouterr().err
    assert "127.0.0.1:9: cannot be reached: Connection refused" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n["])
def test_answer_that_never_ends(
    root: Path, begin: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte now and then holds up nobody: the limit of a socket is one for each byte."""
    monkeypatch.setattr(web_reader, "_ANSWER", 0.5)
    has_ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as client:
                client.sendall(begin)
                while not has_ended.wait(0.05):
                    client.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert diff(root, "--url", url, "--timeout", "1") == 3
        has_ended.set()
        thread.join()
    assert "its answer did not end within 0.5 s; try again later" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--url", "is.cloud.egi.eu"], "--url: is not a URL"),
        (["--url", "https://u:p@host"], "--url: holds an account"),
        (["--timeout", "0"], "--timeout: must be 1 to 3600"),
        (["--timeout", "99999999999999999999"], "--timeout: must be 1 to 3600"),
    ],
)
def test_wrong_flags(
    root: Path, words: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff(root, *words) == 2
    assert shown in capsys.readouterr().err


def test_other_profiles_have_no_default(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "etc/fedcloud/appliance.yaml").write_text("profile: private\n")
    assert diff(root) == 2
    assert "--url: must be given, because the profile in" in capsys.readouterr().err


def test_no_file(root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(root, "")
    path.unlink()
    assert diff(root, "--url", egi.url) == 3
    shown = capsys.readouterr().err
    assert f"{path}: does not exist; write it with appliance run cloud-info-json" in shown
    assert diff(root, "--url", egi.url, "--file", str(path)) == 3
    assert "correct --file" in capsys.readouterr().err
    path.mkdir()
    assert diff(root, "--url", egi.url) == 3
    assert "is a directory; name the site's JSON with --file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"Share": 1}'])
def test_file_that_is_damaged(
    root: Path, egi: InformationService, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(root, text)
    assert diff(root, "--url", egi.url) == 3
    shown = capsys.readouterr().err
    assert f"{path}: is not a site's JSON" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"MappingPolicy": [{"Associations": {"Share": 5}}]}',
        '{"CloudComputingService": [{"Associations": {"AdminDomain": {"a": 1}}, "OtherInfo": 1}]}',
        '{"CloudComputingEndpoint": [{"URL": "http://[half"}], "Share": [{"ID": {}}]}',
        '{"CloudComputingService": [{"CreationTime": [], "Validity": 1e400}]}',
    ],
)
def test_document_of_odd_types(
    root: Path, egi: InformationService, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a site or a store may hold is compared as far as it can be read."""
    write(root, text)
    assert diff(root, "--url", egi.url) == 1
    write(root, document())
    egi.answers["/odd.json"] = (200, text.encode(), {})
    assert diff(root, "--url", f"{egi.url}/odd.json") == 1
    assert "bug in this program" not in capsys.readouterr().err


@pytest.mark.root
def test_fresh_run_that_fails(
    root: Path, egi: InformationService, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing new was written, so nothing is compared."""
    assert diff(root, "--url", egi.url, "--fresh") == 3
    shown = capsys.readouterr().err
    assert "cloud-info-json: failed with exit status" in shown
    assert shown.endswith("see appliance logs cloud-info-json\n")
    assert egi.paths == []


def test_sample_of_the_peer(root: Path, egi: InformationService) -> None:
    """A document of cloud-info-provider 1.2 in its own form, an object for each share."""
    read = json.loads(document())
    read["CloudComputingImage"] = [
        {**one, "Associations": {"Share": [share]}}
        for one in read["CloudComputingImage"]
        for share in one["Associations"]["Share"]
    ]
    write(root, json.dumps(read))
    assert diff(root, "--url", egi.url) == 0
