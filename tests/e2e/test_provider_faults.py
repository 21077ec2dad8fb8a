"""cloud-info-provider-service on a faulty cloud: each VO's fault is reported and stops no other."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core import ldif
from tests import run_records, warm
from tests.interop import egi_profile
from tests.simulators.offering_cloud import PASSWORD, Cloud, Fault, flavor, image, server

PROGRAM = Path(sys.executable).with_name("cloud-info-provider-service")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud(
        flavors={name: [flavor("1"), flavor("2")] for name in ("p0", "p1", "p2")},
        images={name: [image("a"), image("b")] for name in ("p0", "p1", "p2")},
        servers={"p0": [server("x"), server("y", "SHUTOFF"), server("z", "SUSPENDED")]},
        quotas={"p0": {"cores": 40, "instances": -1}},
    )
    with made.serve():
        yield made


def run(
    cloud: Cloud, root: Path, *flags: str, password: str = PASSWORD, project: str = ""
) -> tuple[int, str, str]:
    """Run the program with a share for each project, or with the account's own ``project`` only."""
    directory = root / "etc/cloud-info-provider"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "openstack.rc").write_text(
        f"OS_AUTH_URL={cloud.url}/identity/v3\nOS_USERNAME=ci\n"
        f"OS_PASSWORD={password}\nOS_USER_DOMAIN_ID=default\n"
    )
    (directory / "openstack.rc").chmod(0o600)
    shares = "  shares:\n" + "".join(
        f"    vo-{project}: {{auth: {{project_id: {project}}}}}\n" for project in cloud.flavors
    )
    (directory / "openstack.yaml").write_text(
        "site: {name: EXAMPLE-SITE}\ncompute:\n  total_cores: 1000\n  total_ram: 4000\n"
        + ("" if project else shares)
    )
    flags = (*flags, "--os-project-name", project) if project else flags
    clean = {name: text for name, text in os.environ.items() if not name.startswith("OS_")}
    words = ("--root", str(root), *flags)
    done = warm.run("cloud_info_provider.cmds.service:main", *words, environment=clean, timeout=120)
    return done.returncode, done.stdout, done.stderr


def failed(output: str) -> list[str]:
    return re.findall(r"^# failed: (.*)$", output, re.MULTILINE)


FAULTS = {
    "flavors-403": (Fault("/flavors/detail", status=403), "Nova answers 403 to GET"),
    "flavors-404": (Fault("/flavors/detail", status=404), "Nova answers 404 to GET"),
    "flavors-html": (
        Fault("/flavors/detail", body=b"<html>"),
        "Nova answers 200 to a listing of flavors: <html>",
    ),
    "flavors-list": (
        Fault("/flavors/detail", body=b"[]"),
        "Nova answers 200 to a listing of flavors: []",
    ),
    "flavors-empty": (
        Fault("/flavors/detail", body=b"{}"),
        "Nova answers 200 to a listing of flavors: {}",
    ),
    "flavors-short": (
        Fault("/flavors/detail", body=b'{"flavors": [{"id": "1"}]}'),
        "the cloud's flavors: cannot be understood: flavor '1': it lacks 'vcpus'",
    ),
    "flavors-number": (
        Fault("/flavors/detail", body=b'{"flavors": [7]}'),
        'Nova answers 200 to a listing of flavors: {"flavors": [7]}',
    ),
    "flavors-late": (Fault("/flavors/detail", delay=4), "imed out"),
    "images-403": (Fault("/v2/images", status=403), "Glance answers 403 to GET"),
    "images-next": (
        Fault("/v2/images", body=b'{"images": [], "next": 7}'),
        'Glance answers 200 to a listing of images: {"images": [], "next": 7}',
    ),
    "images-short": (
        Fault("/v2/images", body=b'{"images": [{}]}'),
        'Glance answers 200 to a listing of images: {"images": [{}]}',
    ),
    "images-circle": (
        Fault("/v2/images", body=b'{"images": [], "next": "/v2/images?status=active&limit=500"}'),
        "leads to a page that was already read",
    ),
    "servers-403": (
        Fault("/servers/detail", status=403),
        "Nova does not let the account list the servers",
    ),
    "servers-cell": (
        Fault("/servers/detail", body=b'{"servers": [{"id": "1", "status": "UNKNOWN"}]}'),
        "does not answer",
    ),
    "quota-400": (Fault("/os-quota-sets", status=400), "Nova answers 400 to GET"),
    "token-401": (Fault("/auth/tokens", status=401), "gives the account 'ci' no token for it"),
    "token-none": (Fault("/auth/tokens", body=b"{}"), ""),
}


def test_each_vo_s_fault_is_its_own(cloud: Cloud, tmp_path: Path) -> None:
    for name, (fault, _) in FAULTS.items():
        cloud.flavors[name] = [flavor("1")]
        cloud.faults.append(replace(fault, project=name))
    status, out, err = run(cloud, tmp_path, "--timeout", "2")
    assert status == 1
    assert failed(out) == sorted(f"vo-{name}" for name in FAULTS)
    lines = [line for line in err.splitlines() if line.startswith("cloud-info-provider-service: ")]
    assert len(lines) == len(FAULTS)
    reported = {line.split(": ")[1]: line for line in lines}
    for name, (_, words) in FAULTS.items():
        assert words in reported[f"vo-{name}"]
    assert "Traceback" not in err
    entries = egi_profile.load(out, tmp_path / "slapd")
    shares = [
        entry["GLUE2ShareID"][0].rpartition("_")[2]
        for entry in entries.values()
        if "GLUE2ShareID" in entry
    ]
    assert sorted(shares) == ["p0", "p1", "p2"]
    record = json.loads(
        (tmp_path / "var/lib/fedcloud/runs/cloud-info-provider-service.json").read_text()
    )
    assert len(record["failures"]) == len(FAULTS)


def test_the_record_of_a_run_that_fails(cloud: Cloud, tmp_path: Path) -> None:
    """F-S2: after each kind of failure it shows that run and the remaining work."""
    name = "cloud-info-provider-service"

    def said() -> run_records.Figures:
        return run_records.read(tmp_path, name)

    assert run(cloud, tmp_path, password="wrong")[0] == 3
    assert said().status == 3
    assert "refuses the account 'ci'" in said().failures[0]
    assert (said().counts["vos"], said().counts["vos_failed"]) == (0, 3)
    cloud.faults = [Fault("/v2/images", "p1", 403)]
    assert run(cloud, tmp_path)[0] == 1
    assert (said().counts["vos"], said().counts["vos_failed"]) == (2, 1)
    (tmp_path / "etc/cloud-info-provider/openstack.yaml").write_text("site: [\n")
    done = subprocess.run(
        [str(PROGRAM), "--root", str(tmp_path)], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == said().status == 2
    assert "openstack.yaml:" in said().failures[0]


def test_the_record_of_a_run_that_is_stopped(cloud: Cloud, tmp_path: Path) -> None:
    """F-S2: a BDII ends a provider at its time limit."""
    assert run(cloud, tmp_path)[0] == 0
    cloud.faults = [Fault("/v2/images", "p1", delay=20)]
    with subprocess.Popen([str(PROGRAM), "--root", str(tmp_path)], stdout=-1, stderr=-1) as process:
        before = cloud.requests.total()
        while cloud.requests.total() < before + 10:
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
    said = run_records.read(tmp_path, "cloud-info-provider-service")
    assert (said.status, said.failures) == (3, ["stopped by SIGTERM"])
    assert said.counts["vos_failed"] == 3


def test_a_service_that_is_busy_for_a_moment_is_asked_again(cloud: Cloud, tmp_path: Path) -> None:
    cloud.faults = [
        Fault("/v2/images", "p1", 503, times=2),
        Fault("/flavors/detail", "p2", 500, times=1),
    ]
    status, out, err = run(cloud, tmp_path)
    assert (status, failed(out)) == (0, [])
    assert "trying again" in err


def test_when_no_vo_can_be_read_nothing_is_printed(cloud: Cloud, tmp_path: Path) -> None:
    cloud.faults = [Fault("/flavors/detail", status=403)]
    status, out, err = run(cloud, tmp_path)
    assert (status, out) == (3, "")
    words = "no VO could be read: 127.0.0.1"
    assert err.startswith(f"cloud-info-provider-service: {words}")
    assert "Nova answers 403 to GET" in err
    assert err.count("\n") == 1
    cloud.faults = [Fault("/auth/tokens", status=401)]
    assert run(cloud, tmp_path)[:2] == (3, "")


def test_quotas_that_the_account_may_not_know_are_left_out(cloud: Cloud, tmp_path: Path) -> None:
    cloud.faults = [Fault("/os-quota-sets", "p0", 403)]
    status, out, _ = run(cloud, tmp_path)
    assert (status, failed(out)) == (0, [])
    assert "quota_" not in out


def test_listings_are_followed_to_their_last_page(cloud: Cloud, tmp_path: Path) -> None:
    cloud.page = 3
    cloud.flavors["p0"] = [flavor(f"f{number}") for number in range(10)]
    cloud.images["p0"] = [image(f"i{number}") for number in range(8)]
    cloud.servers["p0"] = [server(f"s{number}", vcpus=3) for number in range(7)]
    status, out, _ = run(cloud, tmp_path)
    assert status == 0
    entries = egi_profile.load(out, tmp_path / "slapd")
    environments = [e for e in entries.values() if "GLUE2ExecutionEnvironment" in e["objectClass"]]
    assert len([e for e in environments if "VO=vo-p0" in e["GLUE2EntityOtherInfo"]]) == 10
    applications = [
        e for e in entries.values() if "GLUE2ApplicationEnvironment" in e["objectClass"]
    ]
    assert len([e for e in applications if "VO=vo-p0" in e["GLUE2EntityOtherInfo"]]) == 8
    (manager,) = (e for e in entries.values() if "GLUE2ComputingManager" in e["objectClass"])
    assert manager["GLUE2ComputingManagerSlotsUsedByGridJobs"] == ["21"]


def test_a_nova_older_than_extra_specs_in_listings(cloud: Cloud, tmp_path: Path) -> None:
    cloud.microversion = "2.53"
    for listed in cloud.flavors.values():
        for each in listed:
            del each["extra_specs"]
    status, out, _ = run(cloud, tmp_path)
    assert status == 0
    assert "GLUE2EndpointImplementationVersion: 2.53" in out


def test_disabled_flavors_and_unfinished_or_foreign_images_are_not_offered(
    cloud: Cloud, tmp_path: Path
) -> None:
    cloud.flavors["p0"].append(flavor("off", **{"OS-FLV-DISABLED:disabled": True}))
    cloud.images["p0"].append(image("early", status="queued"))
    cloud.images["p0"].append(image("hers", visibility="private", owner="p9"))
    cloud.images["p0"].append(image("mine", visibility="private", owner="p0"))
    _, out, _ = run(cloud, tmp_path)
    text = out.replace("\n ", "")
    assert "resource#off_" not in text
    assert "os#hers_" not in text
    assert "os#early_" not in text
    assert "os#mine_" in text


def test_an_image_list_s_entry_stored_by_cloudkeeper_is_published(
    cloud: Cloud, tmp_path: Path
) -> None:
    kept = {"ad:base_mpuri": "https://m.example.org/base/", "hv:version": "2026.10", "dc:title": 7}
    cloud.images["p0"] = [
        image(
            "a",
            APPLIANCE_ATTRIBUTES=json.dumps(kept),
            vmcatcher_event_dc_description="x\ny",
            os_distro="ubuntu",
        ),
        image(
            "b",
            APPLIANCE_ATTRIBUTES='{:"hv:version"=>"1"}',
            vmcatcher_event_ad_mpuri=None,
            marketplace="https://m.example.org/b/",
        ),
        image("c", APPLIANCE_ATTRIBUTES="[" * 20_000, image_version="3"),
    ]
    status, out, err = run(cloud, tmp_path)
    assert (status, err) == (0, "")
    found = {
        e["GLUE2ApplicationEnvironmentAppName"][0]: e
        for e in egi_profile.load(out, tmp_path / "slapd").values()
        if "GLUE2ApplicationEnvironmentAppName" in e
    }
    assert found["image a"]["GLUE2ApplicationEnvironmentAppVersion"] == ["2026.10"]
    assert found["image a"]["GLUE2ApplicationEnvironmentDescription"] == ["x y"]
    assert {"base_mpuri=https://m.example.org/base/", "OSName=ubuntu"} <= set(
        found["image a"]["GLUE2EntityOtherInfo"]
    )
    assert found["image b"]["GLUE2ApplicationEnvironmentRepository"] == ["https://m.example.org/b/"]
    assert found["image c"]["GLUE2ApplicationEnvironmentAppVersion"] == ["3"]


def test_the_reader_of_the_product_takes_what_the_program_prints(
    cloud: Cloud, tmp_path: Path
) -> None:
    cloud.faults = [Fault("/flavors/detail", "p1", 404)]
    _, out, _ = run(cloud, tmp_path)
    records = list(ldif.read(out.encode().splitlines(keepends=True)))
    assert records[-1] == ldif.Comment("failed: vo-p1")
    assert not [record for record in records if isinstance(record, ldif.MalformedRecord)]


def test_no_password_is_ever_shown(cloud: Cloud, tmp_path: Path) -> None:
    cloud.faults = [Fault("/auth/tokens", status=500, body=PASSWORD.encode())]
    status, out, err = run(cloud, tmp_path, "--debug", "--timeout", "2")
    assert (status, out) == (3, "")
    assert PASSWORD not in err


@pytest.mark.parametrize(
    ("projects", "expected"),
    [
        ([], "no project is named 'lab' for this account; set OS_PROJECT_ID"),
        (
            [("p0", {}), ("p1", {})],
            "2 projects are named 'lab' for this account; set OS_PROJECT_ID",
        ),
        ([("p0", {})], "no VO is known for it; write compute.shares.VO.auth.project_id"),
        (
            [("p0", {"VO": "a", "egi.VO": "b"})],
            "its sources name different VOs: a (property VO), b (property egi.VO)",
        ),
    ],
)
def test_an_ambiguous_single_project_is_a_configuration_error(
    cloud: Cloud, tmp_path: Path, projects: list[tuple[str, dict[str, str]]], expected: str
) -> None:
    cloud.projects = [
        {"id": key, "name": "lab", "domain_id": "default", "enabled": True, **more}
        for key, more in projects
    ]
    status, out, err = run(cloud, tmp_path, project="lab")
    assert (status, out) == (2, "")
    file = f"{tmp_path}/etc/cloud-info-provider/openstack.yaml"
    assert err.startswith(f"cloud-info-provider-service: {file}: compute.shares: ")
    assert expected in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("flag", "domain"), [("id", "egi"), ("name", "Egi")])
def test_a_single_project_of_a_name_that_two_domains_have(
    cloud: Cloud, tmp_path: Path, flag: str, domain: str
) -> None:
    cloud.projects = [
        {"id": key, "name": "lab", "domain_id": domain, "enabled": True, "VO": "ops"}
        for key, domain in (("p0", "default"), ("p1", "egi"))
    ]
    status, out, err = run(cloud, tmp_path, f"--os-project-domain-{flag}", domain, project="lab")
    assert (status, err) == (0, "")
    assert "share_ops_p1" in out.replace("\n ", "")


def test_validation_prints_findings_and_publishes_nothing(cloud: Cloud, tmp_path: Path) -> None:
    status, out, err = run(cloud, tmp_path, "--validate")
    assert (status, err) == (0, "")
    *lines, last = out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["warning W037"] * 2 + [
        *("warning W037", "warning W044") * 2
    ]  # the simulator's images name no system
    assert last == "16 entries: 0 errors, 6 warnings, 0 infos"
    assert not (tmp_path / "var").exists()
    cloud.faults = [Fault("/flavors/detail", "p1", 404)]
    status, out, err = run(cloud, tmp_path, "--validate")
    assert status == 1
    assert err.startswith("cloud-info-provider-service: vo-p1: ")
    for project in cloud.flavors:
        cloud.flavors[project] = []
    cloud.faults = []
    status, out, err = run(cloud, tmp_path, "--validate")
    assert status == 1
    assert "no VO may use any flavor" in err
    assert "error E025: GLUE2ComputingManager: entries of this class need entries" in out
    status, out, err = run(cloud, tmp_path, "--validate", "--format", "json")
    assert (status, out) == (2, "")
    assert err.endswith("--validate: checks the format glue only; leave --format out\n")
