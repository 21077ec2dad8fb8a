"""`ssmsend` as a program, against an AMS that keeps to the protocol and one that breaks it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.ssm_site import TOPIC, Site
from tests.simulators.ams_service import AMS, Fault, Kind
from tests.testbed.trust import Trust

PAGE = b"<html><head><title>502 Bad\nGateway</title></head><body>nginx</body></html>"


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def ams_with(trust: Trust, *faults: Fault) -> AMS:
    return AMS(trust.host("broker"), trust.grid.certificate, faults)


def texts(count: int) -> list[str]:
    return [f"APEL-cloud-message: v0.4\nVMUUID: {number}\n%%\n" for number in range(count)]


def last_arrivals(service: AMS) -> list[str]:
    """Return the ids in the order of their last copies, which count at the repository."""
    return list(dict.fromkeys(reversed(service.ids(TOPIC))))[::-1]


def test_messages_go_in_order_signed_named_and_together(tmp_path: Path, trust: Trust) -> None:
    """R08: with the host's certificate; openssl verifies the signatures."""
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        names = site.fill(texts(100))
        done = site.run("ssmsend")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert service.ids(TOPIC) == names
        assert [site.opened(stored.body) for stored in service.topics[TOPIC][::9]] == texts(100)[
            ::9
        ]
        assert not any(b"\r" in stored.body for stored in service.topics[TOPIC])
        assert len(service.asked("publish")) < 60
        assert len(service.asked("token")) == 1
        assert service.connections == 2, "one for the token, one for all requests"
        [token] = service.tokens
    assert site.waiting() == site.locks() == []
    assert site.record("ssmsend")["counts"]["messages_sent"] == 100
    log = site.log("sender")
    for line in (
        "Found 100 messages.",
        f"Sending message: {names[0]}",
        f"Sent {names[0]}, Argo ID: 0\n",
    ):
        assert line in log
    assert token not in log


def test_a_configured_token_is_used_and_never_shown(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service, messaging="token: geheim-0123")
        site.fill(texts(3))
        done = site.run("ssmsend", "--debug")
        assert done.returncode == 3
        assert (
            "does not accept the token (401: Unauthorized); check [messaging] token" in done.stderr
        )
        assert done.stderr.count("\n") == 1
        service.tokens.add("geheim-0123")
        assert site.run("ssmsend").returncode == 0
        assert service.asked("token") == []
        assert {request.headers["x-api-key"] for request in service.asked("publish")} == {
            "geheim-0123"
        }
        assert len(service.topics[TOPIC]) == 3
    shown = done.stdout + done.stderr + site.log("sender") + str(site.record("ssmsend"))
    assert "geheim" not in shown


def test_a_token_that_runs_out_is_renewed(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust, Fault(Kind.FORGET_TOKENS, after=1)) as service:
        site = Site.at_ams(tmp_path, trust, service)
        names = site.fill(texts(20))
        assert site.run("ssmsend").returncode == 0
        assert service.ids(TOPIC) == names
        assert len(service.asked("token")) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.STATUS, status=503),
        Fault(Kind.STATUS, status=502, body=PAGE, after=1, times=2),
        Fault(Kind.CLOSE_BEFORE, times=2),
        Fault(Kind.CLOSE_AFTER, after=1, times=2),
        Fault(Kind.HALF, after=1),
    ],
)
def test_passing_failures_are_waited_for(tmp_path: Path, trust: Trust, fault: Fault) -> None:
    """All is delivered in one run, in seconds, and the last copies are in order."""
    with ams_with(trust, fault) as service:
        site = Site.at_ams(tmp_path, trust, service)
        names = site.fill(texts(20))
        begin = time.monotonic()
        assert site.run("ssmsend").returncode == 0
        assert time.monotonic() - begin < 15
        assert last_arrivals(service) == names
    assert site.waiting() == site.locks() == []


def test_a_slow_answer_is_an_answer(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust, Fault(Kind.TRICKLE, times=2)) as service:
        site = Site.at_ams(tmp_path, trust, service)
        names = site.fill(texts(3))
        assert site.run("ssmsend").returncode == 0
        assert service.ids(TOPIC) == names


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            Fault(Kind.STATUS, status=403),
            "access is refused (403: broken on demand); check destination",
        ),
        (
            Fault(Kind.STATUS, status=404),
            "does not exist (404: broken on demand); check [messaging] ams_project",
        ),
        (Fault(Kind.ANSWER, body=PAGE), "does not answer as an AMS: 502 Bad Gateway"),
        (Fault(Kind.ANSWER, body=b'{"messageIds": []}'), "confirms 0 of 1 published messages"),
        (
            Fault(Kind.REDIRECT),
            "redirects (302): https://elsewhere.example.org; check [broker] host",
        ),
        (
            Fault(Kind.STATUS, on="token", status=503, times=9),
            "is out of order (503: broken on demand)",
        ),
    ],
)
def test_a_lasting_failure_ends_the_run_in_one_line(
    tmp_path: Path, trust: Trust, fault: Fault, words: str
) -> None:
    with ams_with(trust, fault) as service:
        site = Site.at_ams(tmp_path, trust, service)
        names = site.fill(texts(1))
        done = site.run("ssmsend")
        assert done.returncode == 3
        assert words in done.stderr
        assert done.stderr.startswith("ssmsend: localhost:")
        assert done.stderr.count("\n") == 1
        assert not any(token in done.stderr + site.log("sender") for token in service.tokens)
        assert service.ids(TOPIC) == []
    assert (site.waiting(), site.locks()) == (names, [])


def test_a_page_that_shows_the_token_shows_it_to_nobody(tmp_path: Path, trust: Trust) -> None:
    page = b"<html><body>You sent x-api-key: geheim-0123</body></html>"
    for kind in (Kind.STATUS, Kind.ANSWER):
        fault = Fault(kind, status=418, body=page, times=9)
        with ams_with(trust, fault) as service:
            site = Site.at_ams(tmp_path, trust, service, messaging="token: geheim-0123")
            site.fill(texts(1))
            done = site.run("ssmsend")
        assert "You sent x-api-key: …" in done.stderr
        assert "geheim" not in done.stderr + site.log("sender")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("ams_project: accounting", "ams_project: nowhere"),
            "does not exist (404: project doesn't exist)",
        ),
        (
            (f"destination: {TOPIC}", "destination: nothing"),
            "topics/nothing of project accounting: does not exist",
        ),
    ],
)
def test_unknown_project_and_topic_are_named(
    tmp_path: Path, trust: Trust, change: tuple[str, str], words: str
) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        config = tmp_path / "etc/apel/sender.cfg"
        config.write_text(config.read_text().replace(*change))
        names = site.fill(texts(2))
        done = site.run("ssmsend")
    assert done.returncode == 3
    assert words in done.stderr
    assert site.waiting() == names


def test_a_certificate_that_the_service_does_not_know(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust) as service:
        service.knows_certificates = False
        site = Site.at_ams(tmp_path / "site", trust, service)
        site.fill(texts(1))
        done = site.run("ssmsend")
        expected = (
            "gives no token for this host's certificate (404: Binding was not found); register "
            "the certificate's"
        )
        assert done.returncode == 3
        assert f"localhost:{service.authn_port}: {expected}" in done.stderr


def test_a_certificate_of_a_ca_that_the_service_does_not_know(tmp_path: Path, trust: Trust) -> None:
    stranger = Trust(tmp_path / "strangers")
    with AMS(trust.host("broker"), stranger.grid.certificate) as service:
        site = Site.at_ams(tmp_path / "site", trust, service)
        names = site.fill(texts(1))
        done = site.run("ssmsend")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "this host's certificate" in done.stderr
    assert site.waiting() == names


def test_a_rogue_service_gets_nothing(tmp_path: Path, trust: Trust) -> None:
    rogue = Trust(tmp_path / "rogue")
    for credential, words in (
        (rogue.host("broker"), "the service's certificate is not trusted"),
        (trust.grid.issue("other.example.org"), "Hostname mismatch"),
    ):
        with AMS(credential, trust.grid.certificate) as service:
            site = Site.at_ams(tmp_path / "site", trust, service, messaging="token: geheim-0123")
            names = site.fill(texts(1))
            done = site.run("ssmsend")
            assert service.requests == []
        assert done.returncode == 3
        assert words in done.stderr
        assert site.waiting()[-1:] == names


def test_the_system_s_cas_count_unless_disabled(tmp_path: Path, trust: Trust) -> None:
    """EGI's AMS has a certificate of a CA that is in no IGTF bundle, as browsers know it."""
    public = Trust(tmp_path / "public")
    with AMS(public.host("broker"), trust.grid.certificate) as service:
        site = Site.at_ams(tmp_path / "site", trust, service)
        names = site.fill(texts(1))
        command = ["env", f"SSL_CERT_FILE={public.grid.certificate}"]
        config = tmp_path / "site/etc/apel/sender.cfg"
        text = config.read_text()
        config.write_text(text.replace("[certificates]", "system_cas: false\n[certificates]"))
        assert site.command("ssmsend").run(*command).returncode == 3
        assert site.waiting() == names
        config.write_text(text)
        assert site.command("ssmsend").run(*command).returncode == 0
        assert service.ids(TOPIC) == names


def test_a_service_that_is_down_is_one_line_and_the_next_is_tried(
    tmp_path: Path, trust: Trust
) -> None:
    with ams_with(trust) as gone:
        port = gone.port
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        config = tmp_path / "etc/apel/sender.cfg"
        text, names = config.read_text(), site.fill(texts(3))
        config.write_text(text.replace(f"localhost:{service.port}", f"localhost:{port}"))
        done = site.run("ssmsend")
        assert done.returncode == 3
        assert done.stderr.startswith(
            f"ssmsend: localhost:{port}: cannot be reached: connection refused;"
        )
        assert done.stderr.count("\n") == 1
        config.write_text(
            text.replace(f"localhost:{service.port}", f"localhost:{port}, localhost:{service.port}")
        )
        assert site.run("ssmsend").returncode == 0
        assert service.ids(TOPIC) == names


def test_a_message_that_is_too_large_is_set_aside_and_blocks_none(
    tmp_path: Path, trust: Trust
) -> None:
    """F-S5: the limit is for the request: this record fits only unsigned and not in base64."""
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        before = site.fill(texts(50))
        [large] = site.fill(["APEL-cloud-message: v0.4\n" + "Field: value\n" * 61_000])
        [fitting] = site.fill(["APEL-cloud-message: v0.4\n" + "Field: value\n" * 58_000])
        after = site.fill(texts(49))
        assert site.run("ssmsend").returncode == 1
        assert service.ids(TOPIC) == [*before, fitting, *after]
        assert (
            max(int(request.headers["content-length"]) for request in service.asked("publish"))
            <= 1024 * 1024
        )
    assert site.waiting() == site.locks() == []
    [buried] = site.buried()
    assert buried["empaid"] == large
    assert (
        "at most 786375, and it cannot be split, because it is a single record; put less"
        in buried["reason"]
    )


def test_a_message_that_the_service_calls_too_large_is_found_and_set_aside(
    tmp_path: Path, trust: Trust
) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        before = site.fill(texts(20))
        [large] = site.fill(["Field: value\n" * 40_000])
        after = site.fill(texts(20))
        service.max_message = 500_000
        assert site.run("ssmsend").returncode == 1
        assert last_arrivals(service) == [*before, *after]
    assert site.waiting() == []
    [buried] = site.buried()
    assert (buried["empaid"], buried["reason"]) == (
        large,
        "the broker says: too large (413: Message size is too large)",
    )


def test_a_hanging_service_does_not_hold_a_run_that_is_to_end(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust, Fault(Kind.HANG)) as service:
        site = Site.at_ams(tmp_path, trust, service)
        names = site.fill(texts(3))
        begin = time.monotonic()
        assert site.run("ssmsend", "--max-time", "1").returncode == 1
        assert time.monotonic() - begin < 40  # the whole answer may take 60 s
    assert (site.waiting(), site.locks()) == (names, [])


def test_dry_run_and_check_ask_nothing(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        site.fill(texts(5))
        shown = site.run("ssmsend", "--dry-run")
        assert shown.returncode == 0
        assert shown.stdout.count(f"to {TOPIC}\n") == 5
        assert site.run("ssmsend", "--check-config").returncode == 0
        assert service.connections == 0


def test_nothing_to_send_is_no_work(tmp_path: Path, trust: Trust) -> None:
    with ams_with(trust) as service:
        site = Site.at_ams(tmp_path, trust, service)
        script = (
            "import sys\nfrom ssm.cmds.send import main\n"
            f"sys.argv = ['ssmsend', '--root', {str(site.root)!r}]\n"
            "assert main() == 0\nprint(*sorted(sys.modules))\n"
        )
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        command = [site.command("ssmsend").argv[0].replace("ssmsend", "python"), "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        unwanted = {
            "ssm.transport.ams_client",
            "ssm.transport.ams",
            "appliance.core.trust.tls",
            "cryptography",
            "requests",
        }
        assert not set(done.stdout.split()) & unwanted
        assert service.connections == 0
