"""The resource's BDII with a real slapd, seen by LDAP clients while providers change and fail."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.bdii_service import (
    SERVICE,
    Bdii,
    Entries,
    cloud,
    image,
    images,
    parse,
    running,
    search,
)


def stale(entries: Entries) -> Entries:
    return {
        dn: found
        for dn, found in entries.items()
        if "Stale=TRUE" in found.get("GLUE2EntityOtherInfo", [])
    }


def csns(bdii: Bdii) -> dict[str, list[str]]:
    """Return slapd's change number of each entry, which every write changes."""
    return {dn: found["entryCSN"] for dn, found in bdii.entries("o=glue", "entryCSN").items()}


def without_times(entries: Entries) -> Entries:
    return {dn: {k: sorted(v) for k, v in found.items()} for dn, found in entries.items()}


def test_what_a_provider_prints_is_what_ldapsearch_finds(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1, "ops"), image(2, name="naïve, “quoted” + =x\\")))
    with running(bdii):
        bdii.wait_for_images(2)
        found = bdii.entries()
        statistics = bdii.statistics()
        assert bdii.signal(signal.SIGTERM) == 0
    assert next(iter(found)) == "o=glue"
    dated = [entry for dn, entry in found.items() if entry.pop("GLUE2EntityCreationTime", None)]
    assert len(dated) == 4  # all but o=glue and the groups
    assert found[
        f"GLUE2ApplicationEnvironmentID=img1_https://cloud.example.org:5000/v3,{SERVICE}"
    ] == {
        "objectClass": ["GLUE2Entity", "GLUE2ApplicationEnvironment"],
        "GLUE2ApplicationEnvironmentID": ["img1_https://cloud.example.org:5000/v3"],
        "GLUE2ApplicationEnvironmentAppName": ["image 1"],
        "GLUE2ApplicationEnvironmentComputingManagerForeignKey": [
            "https://cloud.example.org:5000/v3_cloud.compute_manager"
        ],
        "GLUE2EntityOtherInfo": ["VO=ops"],
    }
    assert len(found) == 8  # o=glue, groups resource, grid and cloud, service, endpoint, 2 images
    assert statistics["TotalEntries"] == 8
    assert statistics["FailedAdds"] == 0


def test_an_unchanged_cycle_writes_nothing_and_a_change_writes_only_itself(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(*(image(n, "ops") for n in range(20))))
    with running(bdii):
        bdii.wait_for_images(20)
        before = csns(bdii)
        bdii.wait_for_cycles(2)
        assert csns(bdii) == before
        stamp = bdii.entries("Hostname=localhost,o=infosys", "entryCSN")
        bdii.provide(
            cloud(*(image(n, "ops") for n in range(1, 20)), image(77), image(5, name="other"))
        )
        # img5 is printed twice: the first of the same name counts
        bdii.wait_for(lambda: any("img77" in dn for dn in bdii.entries()))
        bdii.wait_for(lambda: not any("=img0_" in dn for dn in bdii.entries()))
        after = csns(bdii)
        assert bdii.entries("Hostname=localhost,o=infosys", "entryCSN") != stamp
    assert {dn for dn in after if after[dn] != before.get(dn)} == {
        dn for dn in after if "img77" in dn
    }
    assert before.keys() - after.keys() == {dn for dn in before if "=img0_" in dn}


def test_other_creation_times_alone_are_no_change(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    entry = image(1).rstrip("\n") + "\nGLUE2EntityCreationTime: $(date -u +%Y-%m-%dT%H:%M:%S.%NZ)\n"
    bdii.script(f"cat <<EOT\n{cloud(entry)}EOT")
    with running(bdii):
        bdii.wait_for_images(1)
        before = bdii.entries("o=glue", "*", "entryCSN")
        bdii.wait_for_cycles(2)
        assert bdii.entries("o=glue", "*", "entryCSN") == before


@pytest.mark.parametrize(
    "failure",
    [
        "exit 1",
        "exit 0",
        "echo 'dn: o=glue'; kill -9 $$",
        "sleep 60",
        "yes 'description: much' | head -c 3000000",
    ],
    ids=["status", "silence", "killed", "hangs", "floods"],
)
def test_a_provider_that_fails_keeps_its_entries_marked_as_stale(
    tmp_path: Path, failure: str
) -> None:
    bdii = Bdii(tmp_path, {"BDII_READ_TIMEOUT": 2, "BDII_SOURCE_LIMIT": 1})
    bdii.provide(cloud(*(image(n, "ops") for n in range(5))))
    with running(bdii):
        bdii.wait_for_images(5)
        good = bdii.entries()
        bdii.script(failure)
        bdii.wait_for(lambda: len(stale(bdii.entries())) == 7, what="7 stale entities")
        bad = bdii.entries()
        assert bad.keys() == good.keys()
        (endpoint,) = [found for dn, found in bad.items() if dn.startswith("GLUE2EndpointID=")]
        assert endpoint["GLUE2EndpointHealthState"] == ["unknown"]
        assert any(info.startswith("CollectedAt=2") for info in endpoint["GLUE2EntityOtherInfo"])
        bdii.provide(cloud(*(image(n, "ops") for n in range(5))))
        bdii.wait_for(lambda: not stale(bdii.entries()), what="no stale entries")
        assert without_times(bdii.entries()) == without_times(good)


def test_one_vo_fails_and_its_neighbour_goes_on(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1, "a"), image(2, "b"), image(3, "a", "b"), image(4, "a")))
    with running(bdii):
        bdii.wait_for_images(4)
        bdii.provide(cloud(image(3, "a"), image(5, "a"), image(1, "a"), "# failed: b\n"), status=1)
        bdii.wait_for(lambda: any("img5" in dn for dn in bdii.entries()))
        bdii.wait_for(lambda: not any("img4" in dn for dn in bdii.entries()))
        found = {dn.split("=")[1][:4]: entry for dn, entry in images(bdii.entries()).items()}
    assert sorted(found) == ["img1", "img2", "img3", "img5"]
    assert found["img1"]["GLUE2EntityOtherInfo"] == ["VO=a"]
    assert "Stale=TRUE" in found["img2"]["GLUE2EntityOtherInfo"]
    assert sorted(found["img3"]["GLUE2EntityOtherInfo"]) == ["VO=a", "VO=b"]


def test_stale_entries_are_removed_after_their_time(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path, {"BDII_EXPIRY_SILENT": 3})
    bdii.provide(cloud(image(1)))
    with running(bdii):
        bdii.wait_for_images(1)
        bdii.script("exit 3")
        bdii.wait_for(lambda: len(bdii.entries()) == 3, what="the containers only")


def test_a_tree_that_shrinks_by_more_than_half_is_held(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path, {"BDII_SHRINK_HOLD": 8})
    bdii.provide(cloud(*(image(n) for n in range(40))))
    with running(bdii):
        bdii.wait_for_images(40)
        started = time.monotonic()
        bdii.provide(cloud(image(0), image(99)))
        bdii.wait_for(
            lambda: len(images(bdii.entries())) == 41, what="the new one beside the old ones"
        )
        bdii.wait_for(
            lambda: "39 of 46 entries would be deleted at once: kept until" in bdii.log,
            what="the report",
        )
        bdii.wait_for_images(2)
        assert time.monotonic() - started >= 8


def test_a_vanished_entry_stays_for_the_delay(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path, {"BDII_DELETE_DELAY": 3})
    bdii.provide(cloud(image(1), image(2)))
    with running(bdii):
        bdii.wait_for_images(2)
        bdii.provide(cloud(image(2)))
        bdii.wait_for_cycles(2)
        assert len(images(bdii.entries())) == 2
        bdii.wait_for_images(1)


def test_10044_entries_are_all_served_and_readers_never_see_fewer_than_stay(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    total = 10_044 - 6
    bdii.provide(cloud(*(image(n, "ops") for n in range(total))))
    with running(bdii):
        bdii.wait_for(
            lambda: bdii.statistics()["TotalEntries"] == 10_044, seconds=120, what="10 044 entries"
        )
        assert len(bdii.entries("o=glue", "1.1")) == 10_044
        counts: list[int] = []
        done = threading.Event()

        def poll() -> None:
            while not done.is_set():
                counts.append(len(bdii.entries("o=glue", "1.1")))
                time.sleep(0.02)

        poller = threading.Thread(target=poll)
        poller.start()
        bdii.provide(cloud(*(image(n, "ops") for n in range(100, total + 50))))
        try:
            bdii.wait_for(
                lambda: bdii.statistics()["DeletedEntries"] == 100,
                seconds=120,
                what="100 deletions",
            )
        finally:
            done.set()
            poller.join()
        assert len(bdii.entries("o=glue", "1.1")) == 10_044 - 50
        assert bdii.statistics()["FailedAdds"] == 0
    assert len(counts) > 3
    assert min(counts) >= 10_044 - 100
    assert max(counts) <= 10_044 + 50


def test_a_refused_entry_is_reported_counted_and_harms_no_neighbour(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bad = image(1).replace(
        "GLUE2ApplicationEnvironmentAppName", "GLUE2ApplicationEnvironmentNoSuch"
    )
    bdii.provide(cloud(bad, image(2)))
    with running(bdii):
        bdii.wait_for_images(1)
        bdii.wait_for_cycles(2)
        assert bdii.statistics()["FailedAdds"] == 1
        assert (
            "not published: refused by the directory: GLUE2ApplicationEnvironmentNoSuch" in bdii.log
        )
        bdii.provide(cloud(image(1), image(2)))
        bdii.wait_for_images(2)
        bdii.wait_for_cycles(1)
        assert bdii.statistics()["FailedAdds"] == 0


HOSTILE = [
    b"dn: GLUE2GroupID=\xff\xfe,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: x\n\n",
    b"dn:: R0xVRTJHcm91cElEPf/+LG89Z2x1ZQ==\nobjectClass: GLUE2Group\nGLUE2GroupID: x\n\n",
    b"dn: GLUE2GroupID=a\\,b\\+c\\20,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID:: YSxiK2Mg\n\n",
    b"dn: GLUE2GroupID=nul\\00,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID:: bnVsAA==\n\n",
    (
        b"dn: GLUE2GroupID=two+GLUE2GroupID=names,o=glue\n"
        b"objectClass: GLUE2Group\nGLUE2GroupID: two\n\n"
    ),
    (
        b"dn: GLUE2GroupID=empty,o=glue\n"
        b"objectClass: GLUE2Group\nGLUE2GroupID: empty\ndescription:\n\n"
    ),
    (
        b"dn: GLUE2GroupID=binary,o=glue\n"
        b"objectClass: GLUE2Group\nGLUE2GroupID: binary\ndescription:: //79/A==\n\n"
    ),
    (
        b"dn: GLUE2GroupID=option,o=glue\n"
        b"objectClass: GLUE2Group\nGLUE2GroupID: option\ndescription;lang-en: x\n\n"
    ),
    b"dn: GLUE2GroupID=escape\x1b[31mred,o=glue\nobjectClass: nonsense\n\n",
    b"dn: o=glue\nobjectClass: GLUE2Group\no: glue\n\n",
    (
        b"dn: cn=admin,o=glue\n"
        b"objectClass: organizationalRole\ncn: admin\nstructuralObjectClass: x\n\n"
    ),
    b"dn: GLUE2GroupID=file,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID:< file:///etc/passwd\n\n",
    b"dn: GLUE2GroupID=cloud,o=glue\nchangetype: delete\n\n",
    b"dn: GLUE2GroupID=deep,"
    + b"GLUE2GroupID=x," * 300
    + b"o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: deep\n\n",
    (
        b"dn: GLUE2ServiceID=orphan,GLUE2GroupID=a+o=b,o=glue\n"
        b"objectClass: GLUE2Service\nGLUE2ServiceID: orphan\n\n"
    ),
    b"dn: GLUE2GroupID="
    + b"l" * 233
    + b",o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: "
    + b"l" * 233
    + b"\n\n",
    b"dn: GLUE2GroupID=huge,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: huge\ndescription: "
    + b"x" * 20_000_000
    + b"\n\n",
    b"dn: GLUE2GroupID=long,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: long\ndescription: "
    + b"x" * 500_000
    + b"\n\n",
]


@pytest.mark.parametrize("entries", [10, 300], ids=["one by one", "in bulk"])
def test_hostile_entries_harm_no_neighbour(tmp_path: Path, entries: int) -> None:
    bdii = Bdii(tmp_path)
    data = cloud(*(image(n) for n in range(entries))).encode()
    (tmp_path / "hostile").write_bytes(b"".join(HOSTILE) + data)
    bdii.script(f"cat {tmp_path}/hostile")
    with running(bdii):
        bdii.wait_for_images(entries)
        bdii.wait_for_cycles(2)
        before = csns(bdii)
        bdii.wait_for_cycles(1)
        assert csns(bdii) == before
        found = set(bdii.entries())
        assert bdii.process is not None
        assert bdii.process.poll() is None
    assert {"GLUE2GroupID=cloud,o=glue", "GLUE2GroupID=empty,o=glue", "o=glue"} <= found
    assert any("GLUE2GroupID=a\\2Cb" in dn for dn in found)
    assert not any("deep" in dn for dn in found)
    assert "Traceback" not in bdii.log
    assert "\x1b" not in bdii.log
    assert "root:" not in bdii.log


def test_refused_entries_of_a_bulk_load_are_left_out_with_those_below(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    text = cloud(*(image(n) for n in range(300)))
    orphan = (
        "dn: GLUE2ServiceID=s,GLUE2GroupID=bad,o=glue\nobjectClass: GLUE2Service\n"
        "GLUE2ServiceID: s\nGLUE2ServiceType: t\nGLUE2ServiceQualityLevel: production\n"
        "GLUE2ServiceAdminDomainForeignKey: X\n\n"
    )
    bad = (
        "dn: GLUE2GroupID=bad,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: bad\n"
        "nosuch: attribute\n\n"
    )
    for value in (" twice\nGLUE2EntityOtherInfo: twice ", ": //79/A=="):
        bad += image(1000 + len(bad)).rstrip() + f"\nGLUE2EntityOtherInfo:{value}\n\n"
    bad += image(1000 + len(bad)).rstrip() + "\nGLUE2ApplicationEnvironmentMaxSlots: many\n\n"
    bdii.provide(text + bad + orphan)
    with running(bdii):
        bdii.wait_for_images(300)
        bdii.wait_for_cycles(1)
        assert not [dn for dn in bdii.entries() if "bad" in dn]
        assert bdii.statistics()["FailedAdds"] == 5


def test_an_entry_that_becomes_one_of_another_class(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1)))
    other = cloud(image(1)).replace(
        "objectClass: GLUE2Service\n",
        "objectClass: GLUE2Service\nobjectClass: GLUE2ComputingService\n",
    )
    with running(bdii):
        bdii.wait_for_images(1)
        bdii.provide(other)
        bdii.wait_for(lambda: "GLUE2ComputingService" in bdii.entries()[SERVICE]["objectClass"])
        assert len(images(bdii.entries())) == 1


def test_a_missing_directory_of_providers_removes_no_entry(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path, {"BDII_SHRINK_HOLD": 0})
    bdii.provide(cloud(image(1)))
    with running(bdii):
        bdii.wait_for_images(1)
        (tmp_path / "gip").rename(tmp_path / "away")
        bdii.wait_for(lambda: stale(bdii.entries()) != {})
        assert len(images(bdii.entries())) == 1
        (tmp_path / "away").rename(tmp_path / "gip")
        bdii.wait_for(lambda: not stale(bdii.entries()))


def test_a_killed_slapd_is_restarted_with_the_same_tree(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path, {"BDII_BREATHE_TIME": 60})
    bdii.provide(cloud(image(1), image(2)))
    with running(bdii):
        bdii.wait_for_images(2)
        bdii.wait_for(lambda: " problems" in bdii.log, what="the end of the start")
        good, pid = bdii.entries(), bdii.slapd()
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        bdii.wait_for(lambda: bdii.slapd() != pid and bdii.entries() == good)
        assert time.monotonic() - started < 40  # the next cycle begins after 60 s
        bdii.wait_for(lambda: bdii.statistics()["TotalEntries"] == len(good))


@pytest.mark.parametrize("kept", [0, 700], ids=["empty", "cut"])
@pytest.mark.parametrize("noise", [0, 5000], ids=["", "noise"])
def test_a_broken_file_of_the_published_tree_is_made_good_from_the_sources(
    tmp_path: Path, kept: int, noise: int
) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1), image(2)))
    with running(bdii):
        bdii.wait_for_images(2)
        bdii.wait_for_cycles(1)
        good = bdii.entries()
        bdii.signal(signal.SIGTERM)
    published = tmp_path / "state/published.ldif"
    published.write_bytes(published.read_bytes()[:kept] + os.urandom(noise))
    bdii.script("exit 3")
    with running(bdii):
        bdii.wait_for(lambda: bdii.entries().keys() == good.keys())


def test_an_orphaned_slapd_is_ended_by_the_next_start(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1)))
    with running(bdii):
        bdii.wait_for_images(1)
        bdii.wait_for_cycles(1)
        directory = next((tmp_path / "state/db").iterdir())
        bdii.signal(signal.SIGTERM)
    directory.mkdir(parents=True, exist_ok=True)
    conf = directory / "slapd.conf"
    conf.write_text("database monitor\n")
    orphan = subprocess.Popen(
        ["/usr/sbin/slapd", "-d", "0", "-f", conf, "-h", f"ldap://127.0.0.1:{bdii.port}/"]
    )
    (tmp_path / "state/slapd.pid").write_text(f"{orphan.pid}\n")
    try:
        with running(bdii):
            bdii.wait_for_images(1)
            assert orphan.poll() is not None
    finally:
        orphan.kill()
        orphan.wait()


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", bdii.port))
        taken.listen()
        done = bdii.once("--serve")
    assert done.returncode == 3
    assert done.stderr == (
        f"bdii-update: 127.0.0.1:{bdii.port}: is taken by another program; "
        "stop that program, or set BDII_PORT\n"
    )


def test_a_second_bdii_cannot_use_the_state_directory(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud())
    with running(bdii):
        bdii.wait_for(lambda: len(bdii.entries()) > 3)
        second = bdii.once("--serve")
        assert second.returncode == 1
        assert "state/lock: running since" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        # nor does its end end the slapd of the first
        assert len(bdii.entries()) > 3


def test_anonymous_clients_read_and_never_write(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1)))
    with running(bdii):
        bdii.wait_for_images(1)
        for arguments in (["-x"], ["-x", "-D", "o=glue", "-w", "secret"]):
            done = subprocess.run(
                ["ldapdelete", *arguments, "-H", f"ldap://127.0.0.1:{bdii.port}", SERVICE],
                capture_output=True,
                text=True,
                check=False,
                timeout=20,
            )
            assert done.returncode != 0, done
        sizes = search(bdii.port, "o=glue", "1.1")
        assert len(images(sizes)) == 1


def test_sighup_reads_the_configuration_again(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path, {"BDII_BREATHE_TIME": 60})
    other = tmp_path / "other"
    other.mkdir()
    bdii.provide(cloud(image(1)))
    log = tmp_path / "logged"
    with running(bdii):
        bdii.wait_for_images(1)
        text = bdii.configuration.read_text()
        bdii.configuration.write_text(text + "BDII_READ_TIMEOUT=soon\n")
        assert bdii.process is not None
        bdii.process.send_signal(signal.SIGHUP)
        bdii.wait_for(lambda: "the old one stays" in bdii.log)
        (other / "more.ldif").write_text(
            "dn: GLUE2GroupID=more,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: more\n"
        )
        kept = [line for line in text.splitlines() if not line.startswith("BDII_LDIF_DIR=")]
        bdii.configuration.write_text("\n".join([*kept, f"BDII_LDIF_DIR={other}", ""]))
        bdii.process.send_signal(signal.SIGHUP)
        bdii.wait_for(lambda: "GLUE2GroupID=more,o=glue" in bdii.entries())
        bdii.configuration.write_text(
            text + f"BDII_LOG_LEVEL=WARNING\nBDII_LOG_FILE={log}\nBDII_RAM_DISK=yes\n"
        )
        bdii.process.send_signal(signal.SIGHUP)
        bdii.wait_for(log.exists)
        log.rename(tmp_path / "moved away")  # as logrotate does
        bdii.script("exit 5")
        bdii.process.send_signal(signal.SIGHUP)
        bdii.wait_for(lambda: "provider/cloud: failed with status 5" in log.read_text())
        assert "INFO" not in log.read_text()


def test_a_plugin_modifies_the_tree_and_keeps_its_changes_when_it_fails(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    (tmp_path / "state/gip").mkdir(parents=True)
    (tmp_path / "state/gip/plugin").mkdir()
    plugin = tmp_path / "state/gip/plugin/status"

    def install(script: str) -> None:
        new = tmp_path / "new"
        new.write_text(f"#!/bin/sh\n{script}\n")
        new.chmod(0o755)
        new.rename(plugin)
        bdii.kick()

    def status() -> list[str] | None:
        return bdii.entries()[SERVICE].get("GLUE2ServiceStatusInfo")

    edit = f"dn: {SERVICE}\nGLUE2ServiceStatusInfo: $(grep -c ^dn: -)\n"
    install(f'sleep 2; printf "{edit}"')
    bdii.provide(cloud(image(1)))
    with running(bdii):
        bdii.wait_for(lambda: status() == ["7"])
        assert bdii.statistics()["PluginsTime"] >= 2, "F-I10"
        assert "GLUE2ServiceStatusInfo: 7\n" in bdii.once().stdout
        install("echo broken >&2; exit 3")
        bdii.wait_for(lambda: "plugin/status: failed with status 3: broken" in bdii.log)
        assert status() == ["7"]
        bdii.signal(signal.SIGTERM)
    with running(bdii):
        bdii.wait_for(lambda: status() == ["7"])
        bdii.wait_for_cycles(1)
        assert status() == ["7"]
        plugin.unlink()
        bdii.wait_for(lambda: status() is None)


def test_once_prints_the_tree_and_diff_prints_the_changes(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1)))
    shown = bdii.once()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.count("dn: ") == 7
    differences = bdii.once("--diff")
    assert differences.stdout.splitlines()[-1] == "7 to add, 0 to modify, 0 to delete"
    assert not (tmp_path / "state/published.ldif").exists()
    bdii.script("exit 7")
    failed = bdii.once()
    assert failed.returncode == 1
    assert "provider/cloud: failed with status 7" in failed.stderr
    as_upstream = bdii.once("--compat-exit-codes")
    assert (as_upstream.returncode, as_upstream.stdout) == (0, failed.stdout)
    assert bdii.once("--compat-exit-codes", "--diff").returncode == 1
    bdii.configuration.write_text("BDII_PORT=none\n")
    assert bdii.once("--compat-exit-codes").returncode == 1


def test_a_plugin_that_slapd_refuses_costs_no_entry(tmp_path: Path) -> None:
    """The entry is published without the plugin's change, and those below it too."""
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1, name="one"), image(2)))
    plugin = tmp_path / "state/gip/plugin/status"
    plugin.parent.mkdir(parents=True)
    changed = [SERVICE, next(iter(images(parse(image(1)))))]
    edits = "".join(f"dn: {dn}\nGLUE2EntityNonsense: x\n\n" for dn in changed)
    plugin.write_text(f"#!/bin/sh\ncat <<'END'\n{edits}END\n")
    plugin.chmod(0o755)
    with running(bdii):
        bdii.wait_for_images(2)
        bdii.wait_for(lambda: "published without the changes of plugins" in bdii.log)
        bdii.provide(cloud(image(1, name="other"), image(2)))
        bdii.wait_for(
            lambda: bdii.entries()[changed[1]]["GLUE2ApplicationEnvironmentAppName"] == ["other"],
            what="the source's change",
        )


def test_a_full_disk_is_reported_and_the_published_tree_stays(tmp_path: Path) -> None:
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1), image(2)))
    full = ("strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-o", os.devnull, "-e", "signal=none")
    with running(bdii, *full, "-e", "trace=fsync", "-e", "inject=fsync:error=ENOSPC:when=12..30"):
        bdii.wait_for_images(2)
        bdii.provide(cloud(image(1), image(2), image(3)))
        bdii.wait_for(lambda: "No space left on device; free space" in bdii.log)
        bdii.wait_for_images(3)
        bdii.wait_for(lambda: bdii.log.endswith(" 0 problems\n"), what="space again")
        bdii.signal(signal.SIGTERM)
    bdii.script("sleep 60")
    with running(bdii):
        bdii.wait_for_images(3)


@pytest.mark.root
def test_a_full_database_is_one_line_and_no_entry_is_lost(tmp_path: Path) -> None:
    """Each of the other entries was tried one by one: the cycle had no end, and no line."""
    bdii = Bdii(tmp_path, {"BDII_SHRINK_HOLD": 0})
    bdii.provide(cloud(*(image(n, name="x" * 1000) for n in range(1000))))
    databases = tmp_path / "state/db"
    databases.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", databases], check=True)
    try:
        with running(bdii):
            bdii.wait_for_images(1000)
            bdii.wait_for_cycles(1)
            bdii.provide(cloud(*(image(n, name="x" * 1000) for n in range(5000))))
            words = "not published: refused by the directory: txn_commit failed (80)"
            line = f"{words}; free space in {databases}"
            bdii.wait_for(lambda: line in bdii.log, what="the line")
            assert re.search(r"provider/cloud: GLUE2App.*; \d+ more entries for the same", bdii.log)
            assert 1000 < len(images(bdii.entries())) < 5000
            subprocess.run(["mount", "-o", "remount,size=64m", databases], check=True)
            bdii.kick()
            bdii.wait_for_images(5000)
            bdii.wait_for(lambda: bdii.log.endswith(" 0 problems\n"), what="room again")
    finally:
        subprocess.run(["umount", "-l", databases], check=True)


def units(number: str) -> str:
    """Return entries with an attribute of another schema; slapd does not know it from the start."""
    return "".join(
        f"dn: ou={n},o=glue\nobjectClass: organizationalUnit\nou: {n}\n"
        f"telephoneNumber: {number}\n\n"
        for n in range(10)
    )


@pytest.mark.root
@pytest.mark.parametrize(
    ("new", "marked"),
    [
        (
            cloud(*(image(n, name="y" * 400_000) for n in range(10))),
            "GLUE2ApplicationEnvironmentID",
        ),
        (cloud() + units("1" * 400_000), "telephoneNumber"),
    ],
)
def test_what_a_full_disk_refuses_at_first_is_readable_later(
    tmp_path: Path, new: str, marked: str
) -> None:
    """slapd wrote attributes later on under numbers that its database did not know.

    Each search of the whole tree ended there, with code 80 and a part of the tree (OpenLDAP 2.5).
    Those of GLUE are known from the start; for others, a new database is made in the end.
    """
    bdii = Bdii(tmp_path)
    bdii.provide(cloud())
    databases, full = tmp_path / "state/db", tmp_path / "state/db/full"
    databases.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", databases], check=True)

    def is_whole() -> bool:
        return sum(marked in entry for entry in bdii.entries().values()) == 10

    try:
        with running(bdii):
            bdii.wait_for(lambda: SERVICE in bdii.entries())
            bdii.wait_for_cycles(1)
            with full.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            bdii.provide(new)
            bdii.wait_for(lambda: "failed (80)" in bdii.log, what="no room")
            full.unlink()
            bdii.kick()
            bdii.wait_for(is_whole, seconds=120, what="room again")
            os.kill(bdii.slapd(), signal.SIGKILL)
            bdii.wait_for(is_whole, what="slapd again")
            assert ("a new database is made" in bdii.log) == (marked == "telephoneNumber")
    finally:
        subprocess.run(["umount", "-l", databases], check=True)


def test_full_disk_keeps_no_slapd_from_serving(tmp_path: Path) -> None:
    """slapd.pid stays empty on it. The next engine finds slapd all the same."""
    bdii = Bdii(tmp_path)
    bdii.provide(cloud(image(1), image(2)))
    file = tmp_path / "state/slapd.pid"
    full = ("strace", "-D", "-f", "-qqq", "-o", os.devnull, "-e", "signal=none", "-P", str(file))
    with running(bdii, *full, "-e", "trace=write", "-e", "inject=write:error=ENOSPC"):
        bdii.wait_for_images(2)
        assert file.read_text() == ""
        os.kill(bdii.engine(), signal.SIGKILL)
        bdii.wait_for(lambda: "taking over slapd" in bdii.log)
        bdii.wait_for_images(2)
        assert bdii.signal(signal.SIGTERM) == 0
        with pytest.raises(subprocess.CalledProcessError):
            bdii.entries()


def test_more_sources_than_open_files_are_usual(tmp_path: Path) -> None:
    """The entries of each source are in a file that stays open; the soft limit is raised."""
    bdii = Bdii(tmp_path)
    for number in range(100):
        (tmp_path / f"gip/ldif/{number}.ldif").write_text(cloud(image(number)))
    limited = ["prlimit", "--nofile=64:4096", *bdii.command]
    shown = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert len(images(parse(shown.stdout))) == 100
    assert "Too many open files" not in shown.stderr
