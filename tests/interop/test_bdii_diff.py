"""What would be published, beside what another BDII serves: a real slapd is the other one."""

import json
from pathlib import Path

import pytest

from tests.e2e.bdii_service import SERVICE, Bdii, cloud, image, running


@pytest.fixture
def other(tmp_path: Path) -> Bdii:
    bdii = Bdii(tmp_path / "other")
    bdii.provide(cloud(image(1, "ops"), image(2)))
    return bdii


def test_the_same_cloud_differs_in_nothing_but_times(tmp_path: Path, other: Bdii) -> None:
    own = Bdii(tmp_path / "own")
    # attributes in lower case, as upstream's program writes them
    text = cloud(image(2), image(1, "ops")).replace("GLUE2EndpointURL:", "glue2endpointurl:")
    own.provide(text)
    with running(other):
        other.wait_for_images(2)
        done = own.once("--diff", f"ldap://127.0.0.1:{other.port}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "HERE   8 entries that would be published",
        f"THERE  8 entries of ldap://127.0.0.1:{other.port}",
        "No difference.",
    ]
    assert not (tmp_path / "own/state").exists()


def test_differences_are_rows_or_json(tmp_path: Path, other: Bdii) -> None:
    own = Bdii(tmp_path / "own")
    own.provide(cloud(image(1, "ops", name="renamed\x1b[31m"), image(3)))
    url = f"ldap://127.0.0.1:{other.port}"
    with running(other):
        other.wait_for_images(2)
        shown, as_json, below = (
            own.once("--diff", url),
            own.once("--json", "--diff", url),
            own.once("--diff", f"{url}/GLUE2GroupID=resource,o=glue"),
        )
    assert (shown.returncode, as_json.returncode, below.returncode) == (1, 1, 0)
    rows = shown.stdout.splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == [
        *("WHAT", "differs", "only there", "only here"),
        "1 differs, 1 only here, 1 only there",
    ]
    assert "GLUE2ApplicationEnvironmentAppName  renamed?[31m  image 1" in rows[1]
    found = json.loads(as_json.stdout)
    assert found["here"]["classes"] == found["there"]["classes"]
    assert found["here"]["classes"]["GLUE2ApplicationEnvironment"] == 2
    dn = "GLUE2ApplicationEnvironmentID=img{}_https://cloud.example.org:5000/v3," + SERVICE
    assert found["differences"] == [
        {
            "what": "differs",
            "dn": dn.format(1),
            "attribute": "GLUE2ApplicationEnvironmentAppName",
            "here": ["renamed\x1b[31m"],
            "there": ["image 1"],
        },
        {"what": "only there", "dn": dn.format(2), "attribute": "", "here": [], "there": []},
        {"what": "only here", "dn": dn.format(3), "attribute": "", "here": [], "there": []},
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--diff", "http://host/"], 2, "--diff: 'http://host/' is not a URL of a BDII; write"),
        (["--diff", "ldap://host:port"], 2, "is not a URL of a BDII"),
        (["--diff", "ldap://host/o=grid"], 2, "names a base outside o=glue"),
        (["--diff", "ldap://host/nonsense"], 2, "is not a URL of a BDII"),
        (["--json"], 2, "--json: belongs to --diff URL"),
        (
            ["--diff", "ldap://127.0.0.1:1"],
            3,
            "ldap://127.0.0.1:1: does not answer: ldap_sasl_bind",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    done = Bdii(tmp_path).once(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (status, "", 1)
    assert words in done.stderr


def test_a_base_that_the_other_lacks_is_one_line(tmp_path: Path, other: Bdii) -> None:
    with running(other):
        other.wait_for_images(2)
        done = Bdii(tmp_path / "own").once(
            "--diff", f"ldap://127.0.0.1:{other.port}/GLUE2DomainID=NONE,o=glue"
        )
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert "has no glue2domainid=NONE,o=glue; name a base that it has" in done.stderr
