"""C01 to C12: each fault of this host is found under its own id, and is silent once healed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from appliance.admin import settings
from appliance.admin.check import certificates, clock, network, ports, schedule, space
from appliance.admin.check.endpoints import Contact
from appliance.admin.check.inside import Depth
from appliance.admin.check.probe import CheckedSite
from appliance.admin.check.programs import Programs
from appliance.admin.machine import Machine
from appliance.admin.runtime import native
from appliance.core.config.settings import ENDPOINT, Value
from appliance.core.run import lock, log
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout
from tests import foreign
from tests.simulators.answering import over_tls
from tests.testbed import Authority
from tests.testbed.pki import Credential

pytestmark = pytest.mark.root

ANY = "0.0.0.0"  # noqa: S104  for one test, on a port that nobody knows
CASO = Path("/etc/caso/caso.conf")


class Read(Programs):
    """Programs that have read these values."""

    def __init__(self, layout: Layout, values: Sequence[Value]) -> None:
        super().__init__(settings.load(layout), layout, {}, depth=Depth.LIVE)
        self._read = values

    @property
    def values(self) -> Sequence[Value]:
        return self._read


def site(root: Path, *values: Value, machine: Machine | None = None) -> CheckedSite:
    for name, text in {
        "etc/fedcloud/appliance.yaml": "flows:\n  images: on\n",
        "var/lib/fedcloud/runtime": "native\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text)
    layout = Layout(root)
    return CheckedSite(
        settings.load(layout),
        layout,
        datetime.now(UTC),
        Read(layout, values),
        machine or Machine(),
    )


def rows(found: Iterable[Finding]) -> list[tuple[str, str, int]]:
    return [(one.identifier, one.path, one.line) for one in found]


def commands(root: Path, **scripts: str) -> Machine:
    """Return a machine whose commands are these scripts, with systemd."""
    (root / "bin").mkdir(exist_ok=True)
    for name, text in scripts.items():
        path = root / "bin" / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
    (root / "proc").mkdir(exist_ok=True)
    return Machine(root / "proc", root / "run", f"{root}/bin:/usr/bin:/bin")


def only_active(unit: str) -> str:
    """Return a systemctl for which one unit is active."""
    return f'for unit; do :; done; test "$unit" = {unit}'


# --------------------------------------------------------------------------------------------------
# C01


def test_a_clock_that_nothing_keeps(tmp_path: Path) -> None:
    """C01.b: chrony is installed and stopped, or there is nothing at all."""
    machine = commands(
        tmp_path, systemctl=only_active("none"), systemd_detect_virt="exit 1", chronyd="exit 0"
    )
    (found,) = clock.keeper(site(tmp_path, machine=machine))
    assert found.identifier == "C01.b"
    assert found.text == ("chrony is installed, but does not run; systemctl enable --now chrony")
    commands(tmp_path, chronyd="exit 127")
    (found,) = clock.keeper(site(tmp_path, machine=machine))
    assert "apt-get install chrony" in found.text
    for unit in ("chrony", "systemd-timesyncd"):
        commands(tmp_path, systemctl=only_active(unit))
        assert list(clock.keeper(site(tmp_path, machine=machine))) == []
    commands(tmp_path, systemctl="exit 1", systemd_detect_virt="exit 0")
    assert list(clock.keeper(site(tmp_path, machine=machine))) == []  # a container


@contextlib.contextmanager
def web_server(behind: timedelta, own: Credential | None = None) -> Iterator[int]:
    """Serve answers with the date of a clock, over TLS with a certificate; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", format_datetime(datetime.now(UTC) - behind, usegmt=True))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        over_tls(server, own)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def endpoint(what: str, port: int, *, scheme: str = "http", line: int = 32) -> Value:
    return Value(ENDPOINT, what, f"{scheme}://127.0.0.1:{port}", CASO, line)


@pytest.mark.parametrize(("seconds", "word"), [(60, "ahead of"), (-60, "behind"), (1, "")])
def test_a_clock_that_differs(seconds: int, word: str, tmp_path: Path) -> None:
    """C01.a."""
    with web_server(timedelta(seconds=seconds)) as port:
        found = list(clock.offset(site(tmp_path, endpoint("Keystone", port))))
    assert [one.identifier for one in found] == (["C01.a"] if word else [])
    if word:
        assert f" s {word} that of 127.0.0.1; start chrony" in found[0].text
        number = int(found[0].text.split(" s ")[0].rsplit(" ", 1)[1])
        assert abs(number - 60) <= 3


def test_a_clock_that_differs_from_a_server_of_the_site_s_authority(
    tmp_path: Path, pki: Authority
) -> None:
    """C01.a: only a server that is trusted counts."""
    own = pki.issue("keystone.example.net", hosts=["127.0.0.1"], key="ec")
    with web_server(timedelta(minutes=5), own) as port:
        made = site(tmp_path, endpoint("Keystone", port, scheme="https"))
        assert list(clock.offset(made)) == []
        env = tmp_path / "etc/fedcloud/appliance.env"
        env.write_text(f"FEDCLOUD_CA_BUNDLE={pki.certificate}\n")
        assert [one.identifier for one in clock.offset(made)] == ["C01.a"]


def test_one_clock_of_three_that_is_wrong_is_not_ours(tmp_path: Path) -> None:
    with (
        web_server(timedelta(0)) as first,
        web_server(timedelta(hours=1)) as second,
        web_server(timedelta(0)) as third,
    ):
        values = [endpoint(f"service {port}", port) for port in (first, second, third)]
        assert list(clock.offset(site(tmp_path, *values))) == []
    assert list(clock.offset(site(tmp_path))) == []


# --------------------------------------------------------------------------------------------------
# C02, C03


def test_space_for_images(tmp_path: Path) -> None:
    """C02.a, C02.d: a small volume, one that is missing, and one that is read-only."""
    path = tmp_path / "image_data"
    (found,) = space.find(site(tmp_path))
    assert (found.identifier, found.path, found.is_error) == ("C02.d", str(path), True)
    path.mkdir()
    with foreign.small_disk(path, size="10m"):
        (found,) = space.find(site(tmp_path))
        assert (found.identifier, found.path, found.is_error) == ("C02.a", str(path), False)
        assert f"mount a larger volume at {path}" in found.text
        foreign.remount(path, "ro")
        (found,) = space.find(site(tmp_path))
        assert (found.identifier, found.path) == ("C02.d", str(path))
        assert "read-only" in found.text


def test_a_volume_for_images_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C02.d: the machine's image notes that there was one."""
    monkeypatch.setattr(space, "IMAGES", 0)
    made, path = site(tmp_path), tmp_path / "image_data"
    mark = tmp_path / "var/lib/fedcloud/image-volume"
    for directory in (path, mark.parent):
        directory.mkdir(parents=True, exist_ok=True)
    assert list(space.find(made)) == []
    mark.touch()
    assert rows(space.find(made)) == [("C02.d", str(path), 0)]
    with foreign.small_disk(path, size="10m"):
        assert list(space.find(made)) == []


@pytest.mark.parametrize("name", ["var/spool/apel", "var/spool/caso", "var/lib/fedcloud"])
def test_a_spool_that_is_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C02.b, C02.c."""
    monkeypatch.setattr(space, "IMAGES", 0)
    made = site(tmp_path)
    (tmp_path / "image_data").mkdir()
    path = tmp_path / name
    path.mkdir(parents=True, exist_ok=True)
    assert list(space.find(made)) == []
    with foreign.small_disk(path, size="150m"):
        assert list(space.find(made)) == []
        (path / "a").write_bytes(bytes(60 * 2**20))
        assert rows(space.find(made)) == [("C02.b", str(path), 0)]
    with foreign.small_disk(path, size="150m,nr_inodes=1010"):
        assert list(space.find(made)) == []
        for number in range(20):
            (path / str(number)).touch()
        assert rows(space.find(made)) == [("C02.c", str(path), 0)]


@pytest.mark.parametrize(("kib", "ids"), [(512 * 1024, ["C03.a"]), (2 * 2**20, [])])
def test_memory(kib: int, ids: list[str], tmp_path: Path) -> None:
    machine = commands(tmp_path)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {kib:10} kB\nMemFree: 1 kB\n")
    assert [one.identifier for one in space.memory(site(tmp_path, machine=machine))] == ids


# --------------------------------------------------------------------------------------------------
# C05


@contextlib.contextmanager
def listening(address: str) -> Iterator[int]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", ANY])
def test_another_program_has_the_port(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C05.a: by name and pid, as the kernel lists them."""
    monkeypatch.setattr(native, "services", lambda _: [])
    with listening(address) as port:
        monkeypatch.setattr(ports, "PORT", port)
        (found,) = ports.find(site(tmp_path))
        assert found.identifier == "C05.a"
        assert f"(pid {os.getpid()}) listens on port {port}; stop it" in found.text
    assert list(ports.find(site(tmp_path))) == []


def test_a_bdii_for_this_host_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C05.b: the line of appliance.env that does it."""
    monkeypatch.setattr(ports, "_is_running", lambda _: True)
    monkeypatch.setattr(ports, "_process", lambda *_: ("17", "slapd"))
    with listening("127.0.0.1") as port:
        monkeypatch.setattr(ports, "PORT", port)
        path = tmp_path / "etc/fedcloud/appliance.env"
        path.parent.mkdir(parents=True)
        path.write_text(f"# x\nFEDCLOUD_BDII_LISTEN=127.0.0.1:{port}\n")
        (found,) = ports.find(site(tmp_path))
        assert (found.identifier, found.path, found.line) == ("C05.b", str(path), 2)
    path.unlink()
    with listening(ANY) as port:
        monkeypatch.setattr(ports, "PORT", port)
        assert list(ports.find(site(tmp_path))) == []


# --------------------------------------------------------------------------------------------------
# C06, C07


@pytest.mark.parametrize(
    ("what", "refused", "late"),
    [
        ("AMS", "C06.a", "C06.b"),
        ("login of AMS", "C06.a", "C06.b"),
        ("message broker", "C06.a", "C06.b"),
        ("image list", "C06.c", "C06.c"),
        ("registry", "C06.c", "C06.c"),
        ("GOCDB", "C06", "C06"),
    ],
)
def test_a_port_that_cannot_be_reached(
    what: str, refused: str, late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C06.a, b, c: with the line that names the host; an open one beside it is no finding."""
    monkeypatch.setattr(network, "_TIMEOUT", 0.5)
    with listening("127.0.0.1") as good, socket.socket() as full, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # a port that nobody listens on
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # A queue that is full: the kernel answers no further connection.
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        values = [
            endpoint(what, good, line=1),
            endpoint(what, closed.getsockname()[1], line=2),
            endpoint(what, full.getsockname()[1], line=3),
            endpoint("Keystone", closed.getsockname()[1], line=4),
        ]
        found = list(network.outbound(site(tmp_path, *values)))
        for one in waiting:
            one.close()
    assert sorted(rows(found)) == sorted([(refused, str(CASO), 2), (late, str(CASO), 3)])
    text = {one.line: one.text for one in found}
    assert "connection refused; open outbound" in text[2]
    assert "no answer within 0.5 s; open outbound" in text[3]
    assert ("set a token" in text[3]) == (what == "login of AMS")


def test_the_name_of_an_image_list_host(tmp_path: Path) -> None:
    """C06.c: nobody has the name."""
    value = Value(ENDPOINT, "image list", "https://no-such-host.invalid", CASO, 5)
    (found,) = network.outbound(site(tmp_path, value))
    assert (found.identifier, found.line) == ("C06.c", 5)
    assert "there is no such name; correct the name" in found.text


def test_connections_go_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site behind a proxy has no direct way out, and must have no false alarm."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(log, "_secrets", set())
    with foreign_proxy() as port:
        env = tmp_path / "etc/fedcloud/appliance.env"
        env.parent.mkdir(parents=True)
        env.write_text(f"HTTPS_PROXY=http://127.0.0.1:{port}\n")
        value = Value(ENDPOINT, "AMS", "https://no-such-host.invalid", CASO, 5)
        assert list(network.outbound(site(tmp_path, value))) == []
        env.write_text("HTTPS_PROXY=http://user:geheim-48@127.0.0.1:9\n")
        (found,) = network.outbound(site(tmp_path, value))
        assert found.identifier == "C06.a"
        assert log.redact("geheim-48") == "***"
        env.write_text("HTTPS_PROXY=ftp://user:geheim-49@127.0.0.1:9\n")
        (found,) = network.outbound(site(tmp_path, value))
        assert "geheim" not in log.redact(found.text)
        assert "check HTTPS_PROXY and NO_PROXY" in found.text


@contextlib.contextmanager
def foreign_proxy() -> Iterator[int]:
    """Serve a proxy that reaches every host."""

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_response_only(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


DEFAULTS = Path("/etc/sitebdii/glite-info-site-defaults.conf")


@pytest.mark.parametrize(
    ("host", "row"),
    [
        ("no-such-host.invalid", "C07.a"),
        ("192.0.2.17", "C07.b"),
        ("localhost", ""),
        ("127.0.0.1", ""),
    ],
)
def test_the_name_of_the_bdii(
    host: str, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C07.a, C07.b."""
    monkeypatch.setattr(network, "_TIMEOUT", 0.3)
    value = Value("DEFAULT", "SITE_BDII_HOST", host, DEFAULTS, 6)
    found = rows(network.name(site(tmp_path, value)))
    assert found == ([(row, str(DEFAULTS), 6)] if row else [])


# --------------------------------------------------------------------------------------------------
# C08


def table(root: Path, name: str, text: str, *, mode: int = 0o644) -> Path:
    path = root / "etc/cron.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


LINE = "14 * * * * root /usr/local/bin/caso-extract.sh >> /var/log/caso.log 2>&1\n"
FULL = {
    "caso": LINE,
    "ssmsend": "30 */6 * * * root /usr/local/bin/ssm-send.sh\n",
    "cloudkeeper": "26 */4 * * * root /usr/local/bin/cloudkeeper.sh\n",
    "fedcloud-crl": "47 */6 * * * root /usr/local/bin/appliance run fetch-crl\n",
}


def scheduled(root: Path) -> CheckedSite:
    for name, text in FULL.items():
        table(root, name, text)
    return site(root)


def crontab(root: Path) -> Path:
    path = root / "var/spool/cron/crontabs/root"
    path.parent.mkdir(parents=True)
    path.write_text("# own\n5 * * * * /usr/bin/caso-extract\n")
    return path


SPOILT: Mapping[str, tuple[str, Callable[[Path], Path], int]] = {
    "no user": ("C08.b", lambda root: table(root, "caso", LINE.replace("root ", "")), 1),
    "no minute": ("C08.c", lambda root: table(root, "caso", LINE.replace("14", "74")), 1),
    "no month": (
        "C08.c",
        lambda root: table(root, "caso", LINE.replace("* * root", "moon * root")),
        1,
    ),
    "no newline": ("C08.c", lambda root: table(root, "caso", LINE.rstrip()), 1),
    "group": ("C08.c", lambda root: table(root, "caso", LINE, mode=0o664), 0),
    "dot": ("C08.c", lambda root: table(root, "caso.old", LINE), 0),
    "crontab": ("C08.d", crontab, 2),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_fault_of_a_table(name: str, tmp_path: Path) -> None:
    """C08.b, C08.c, C08.d."""
    made = scheduled(tmp_path)
    assert list(schedule.find(made)) == []
    row, spoil, line = SPOILT[name]
    path = spoil(tmp_path)
    assert (row, str(path), line) in rows(schedule.find(made))
    assert {one.identifier for one in schedule.find(made)} == {row}
    path.unlink()
    table(tmp_path, "caso", LINE)
    assert list(schedule.find(made)) == []


def test_a_table_and_a_timer(tmp_path: Path) -> None:
    """C08.e."""
    made = scheduled(tmp_path)
    wants = tmp_path / "etc/systemd/system/timers.target.wants"
    wants.mkdir(parents=True)
    timer = wants / "fedcloud-job@caso.timer"
    timer.symlink_to("../fedcloud-job@.timer")
    (found,) = schedule.find(made)
    assert found.identifier == "C08.e"
    assert "appliance schedule cron|systemd" in found.text
    timer.unlink()
    assert list(schedule.find(made)) == []


def test_cron_does_not_run(tmp_path: Path) -> None:
    """C08.a."""
    scheduled(tmp_path)
    machine = commands(tmp_path, systemctl=only_active("none"))
    (found,) = schedule.starter(site(tmp_path, machine=machine))
    assert (found.identifier, found.path) == ("C08.a", str(tmp_path / "etc/cron.d/caso"))
    assert "systemctl enable --now cron" in found.text
    commands(tmp_path, systemctl=only_active("cron"))
    assert list(schedule.starter(site(tmp_path, machine=machine))) == []


@pytest.mark.parametrize(
    ("job", "hours", "is_found"),
    [
        ("caso", 1.5, False),
        ("caso", 3, True),
        ("ssmsend", 11, False),
        ("ssmsend", 13, True),
        ("cloudkeeper", 9, True),
    ],
)
def test_a_job_that_did_not_run(job: str, hours: float, is_found: bool, tmp_path: Path) -> None:
    """C08.f: two periods of its line in the table."""
    made = scheduled(tmp_path)
    assert list(schedule.runs(made)) == []  # none has run yet
    path = tmp_path / f"var/lib/fedcloud/runs/jobs/job-{job}.json"
    path.parent.mkdir(parents=True)
    began = made.now - timedelta(hours=hours)
    path.write_text(json.dumps({"program": f"job-{job}", "started": began.isoformat()}))
    expected = [("C08.f", str(path), 0)] if is_found else []
    assert rows(schedule.runs(made)) == expected
    # The same with a timer, whose table cron does not read.
    idle = tmp_path / "etc/fedcloud/cron.d"
    idle.mkdir(parents=True)
    for name in FULL:
        (tmp_path / "etc/cron.d" / name).rename(idle / name)
    assert list(schedule.runs(made)) == []
    wants = tmp_path / "etc/systemd/system/timers.target.wants"
    wants.mkdir(parents=True)
    (wants / f"fedcloud-job@{job}.timer").symlink_to("../fedcloud-job@.timer")
    assert rows(schedule.runs(made)) == expected


# --------------------------------------------------------------------------------------------------
# C10, C12; C10.a to C10.f are in test_check_configuration, because the sender's check finds them


@pytest.fixture
def pki(tmp_path: Path) -> Authority:
    authority = Authority.create(tmp_path / "ca", key="ec")
    authority.publish(tmp_path / "etc/grid-security/certificates")
    return authority


def test_lists_that_are_missing_old_or_ended(tmp_path: Path, pki: Authority) -> None:
    """C10.g."""
    grid = tmp_path / "etc/grid-security"
    shutil.copy(pki.issue("host.example.net", key="ec").certificate, grid / "hostcert.pem")
    made = site(tmp_path)
    assert list(certificates.of_lists(made)) == []
    (crl,) = (grid / "certificates").glob("*.r0")
    long_ago = made.now - timedelta(days=9)
    os.utime(crl, (long_ago.timestamp(),) * 2)
    assert rows(certificates.of_lists(made)) == [("C10.g", str(grid / "certificates"), 0)]
    os.utime(crl)
    # Fetched today, but made long ago: past its nextUpdate.
    later = CheckedSite(made.host, made.layout, made.now + timedelta(days=400), made.programs)
    os.utime(crl, (later.now.timestamp(),) * 2)
    assert {one.identifier for one in certificates.of_lists(later)} <= {"C10.g"}
    crl.unlink()
    (found,) = certificates.of_lists(made)
    assert (found.identifier, found.path) == ("C10.g", str(grid / "certificates"))
    assert "appliance run fetch-crl" in found.text


def test_authorities_that_are_old(tmp_path: Path, pki: Authority) -> None:
    """C10.h."""
    made = site(tmp_path)
    directory = tmp_path / "etc/grid-security/certificates"
    assert list(certificates.of_anchors(made)) == []
    long_ago = (made.now - timedelta(days=800)).timestamp()
    for path in directory.glob("*.0"):
        os.utime(path, (long_ago, long_ago))
    assert rows(certificates.of_anchors(made)) == [("C10.h", str(directory), 0)]


def test_a_copy_of_the_key_that_a_killed_job_left(tmp_path: Path) -> None:
    """C10.i: not while the job runs, and not that of a check."""
    made = site(tmp_path)
    keys = tmp_path / "run/fedcloud/keys"
    keys.mkdir(parents=True)
    for name in ("ssmsend", "ssmsend.1", "check-ssmsend"):
        (keys / name).touch()
    found = list(certificates.of_copies(made))
    assert rows(found) == [("C10.i", str(keys / name), 0) for name in ("ssmsend", "ssmsend.1")]
    assert found[0].text.endswith(f"rm {keys / 'ssmsend'}")
    pid = os.fork()
    if pid == 0:  # the lock excludes other processes only
        with lock.hold(tmp_path / "run/fedcloud/ssmsend.lock"):
            (tmp_path / "held").touch()
            threading.Event().wait()
    try:
        while not (tmp_path / "held").exists():
            pass
        assert list(certificates.of_copies(made)) == []
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_the_receiver_s_certificate(tmp_path: Path, pki: Authority) -> None:
    """C12.b: with the line of sender.cfg that names it."""
    path = pki.issue("apel.example.net", key="ec").certificate
    shutil.copy(path, tmp_path / "apel.pem")
    sender = Path("/etc/apel/sender.cfg")
    value = Value("certificates", "server_cert", "/apel.pem", sender, 23)
    made = site(tmp_path, value)
    assert list(certificates.of_receiver(made)) == []
    later = CheckedSite(made.host, made.layout, made.now + timedelta(days=9999), made.programs)
    (found,) = certificates.of_receiver(later)
    assert (found.identifier, found.path, found.line) == ("C12.b", str(sender), 23)


def test_a_contact_is_a_place(tmp_path: Path) -> None:
    one = Contact("a", 1, "AMS", "https", "/etc/x", 0)
    assert one.place == "/etc/x"
    assert clock.ahead_of(one, ssl.create_default_context()) is None
