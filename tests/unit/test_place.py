"""Messages of programs in containers name the paths of the host."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from pathlib import Path

import pytest
import yaml

from appliance.core.cloud import transport
from appliance.core.cloud.login import Access
from appliance.core.config import document, oslo, secret_file
from appliance.core.config.settings import Settings
from appliance.core.run import cli, log, place
from appliance.core.run.errors import ConfigurationError, ExitStatus, Problem
from appliance.core.run.record import RunRecord

TOP = Path(__file__).parents[2]
PLACES = (
    "/etc/caso/caso.conf=/etc/caso/caso.conf /etc/caso/voms.json=/etc/voms.json"
    " /var/spool/cloudkeeper/images=/image_data /var/lib/fedcloud/runs=/var/lib/fedcloud/runs/caso"
)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(place.VARIABLE, PLACES)


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/etc/caso/voms.json:3: vo: no", "/etc/voms.json:3: vo: no"),
        ("chmod o-r /etc/caso/voms.json.", "chmod o-r /etc/voms.json."),
        ("/var/spool/cloudkeeper/images/a.qcow2", "/image_data/a.qcow2"),
        ("'/var/spool/cloudkeeper/images'", "'/image_data'"),
        (
            "/var/lib/fedcloud/runs/caso-extract.json",
            "/var/lib/fedcloud/runs/caso/caso-extract.json",
        ),
        ("/etc/caso/caso.conf:12", "/etc/caso/caso.conf:12"),
        (
            "/etc/caso/voms.json.old and /srv/etc/caso/voms.json",
            "/etc/caso/voms.json.old and /srv/etc/caso/voms.json",
        ),
        ("/var/spool/cloudkeeper/images2 https://h/etc/caso/voms.json", None),
    ],
)
def test_paths_are_those_of_the_host(text: str, expected: str | None) -> None:
    """F-H5: whole paths and what lies below them; what is the host's already stays."""
    wanted = text if expected is None else expected
    assert place.on_host(text) == wanted
    assert place.on_host(wanted) == wanted


def test_on_the_host_nothing_is_replaced() -> None:
    assert not place.is_container()
    assert place.on_host("/etc/caso/voms.json") == "/etc/caso/voms.json"
    assert place.trust_remedy("set cafile") == "set cafile"
    assert place.unseen("/etc/ssl/private.pem") == ""


@pytest.mark.usefixtures("inside")
def test_everything_that_a_program_says_is_for_the_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H5: errors, log lines, the record that `appliance status` shows."""

    def fail(_: object) -> ExitStatus:
        logging.getLogger("x").warning("see %s", Path("/etc/caso/voms.json"))
        record = RunRecord("x")
        record.fail("/etc/caso/voms.json: no")
        assert record.failures == ["/etc/voms.json: no"]
        raise ConfigurationError([Problem(Path("/etc/caso/voms.json"), 3, "vo", "no")])

    program = cli.Program("x", "", lambda _: None, fail)
    assert cli.main(program, []) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("see /etc/voms.json")
    assert second == "x: /etc/voms.json:3: vo: no"
    assert cli.main(program, ["--check-config", "--log-json"]) == 2
    reported = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert reported[0]["message"] == "see /etc/voms.json"
    assert reported[1]["problem"] == {
        "path": "/etc/voms.json",
        "line": 3,
        "option": "vo",
        "text": "no",
        "is_fatal": True,
    }


@pytest.mark.usefixtures("inside")
def test_a_file_that_only_the_host_has(tmp_path: Path) -> None:
    """F-H5: the container cannot know whether it is there; what helps is a setting of the host."""
    conf = tmp_path / "x.conf"
    conf.write_text("[a]\ncafile = /etc/ssl/certs/private-ca.pem\nkey = /etc/caso/caso.conf\n")
    settings = Settings(document.read([conf], oslo.parse))
    settings.file("a", "cafile")
    settings.file("a", "key")
    with pytest.raises(ConfigurationError) as caught:
        settings.finish()
    first, second = str(caught.value).splitlines()
    assert first.startswith(
        f"{conf}:2: [a] cafile: /etc/ssl/certs/private-ca.pem is not mounted in the container; "
    )
    assert "FEDCLOUD_CA_BUNDLE in /etc/fedcloud/appliance.env" in first
    assert second == f"{conf}:3: [a] key: file /etc/caso/caso.conf does not exist"


@pytest.mark.root
def test_a_secret_outside_the_mounts_has_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCLOUD_PLACES", f"/etc/cloudkeeper/secrets={tmp_path}/etc/secrets")
    conf = tmp_path / "x.conf"
    conf.write_text("[a]\npassword_file = /root/password\n")
    settings = Settings(document.read([conf], oslo.parse))
    assert secret_file.of_option(settings, "a", "password") == ""
    with pytest.raises(ConfigurationError) as caught:
        settings.finish()
    expected = (
        "is not mounted in the container; write it on the host,"
        " or move it into /etc/cloudkeeper/secrets"
    )
    assert str(caught.value) == f"{conf}:2: [a] password_file: /root/password {expected}"


@pytest.mark.parametrize("level", [logging.ERROR, logging.CRITICAL])
def test_a_check_prints_warnings_whatever_the_log_is(
    level: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H6: not to the log file, nor nowhere because the log's level is ERROR."""

    def check(_: object) -> ExitStatus:
        log.configure(level=level, file=tmp_path / "log", console=False)
        logging.getLogger("x").warning(
            "%s", Problem(tmp_path, 1, "o", "unknown option", is_fatal=False)
        )
        return ExitStatus.DONE

    program = cli.Program("x", "", lambda _: None, check)
    assert cli.main(program, ["--check-config"]) == 0
    assert f"WARNING - {tmp_path}:1: o: unknown option" in capsys.readouterr().err
    assert not (tmp_path / "log").exists()
    assert cli.main(program, []) == 0
    assert capsys.readouterr().err == ""


def test_the_compose_file_tells_each_container_what_is_mounted() -> None:
    """F-H5: of each bind mount of each service both ends, spelled as the mount is."""
    services = yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        mounts = {mount["target"]: mount["source"] for mount in service["volumes"]}
        reported = service["environment"][place.VARIABLE].split()
        assert dict(pair.split("=", 1) for pair in reported) == mounts, name
        assert not re.search(r"\s", "".join(mounts.values()))
        assert {"HTTP_PROXY", "no_proxy"} <= service["environment"].keys()


def test_a_tls_port_that_is_asked_in_plain_http() -> None:
    """F-H12: the server only closes the connection; what helps is in the URL."""
    from keystoneauth1 import exceptions
    from keystoneauth1 import session as keystone

    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v3"
        with pytest.raises(exceptions.ConnectFailure) as caught:
            keystone.Session().get(url, connect_retries=0)
    access = Access(auth_type="v3password", auth_url=url, options={}, region=None)
    reported = str(transport._unreachable(caught.value, url, access))
    assert reported.endswith(
        "cannot be reached: it closes the connection on plain HTTP; write https in the URL if "
        "that port expects TLS"
    )


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("/etc/voms.json", "/etc/caso/voms.json"),  # mounted elsewhere
        ("/image_data/a/b", "/var/spool/cloudkeeper/images/a/b"),  # below a mount
        ("/etc/caso/voms.json", "/etc/caso/voms.json"),  # the container's own path
        ("/etc/voms.json.old", "/etc/voms.json.old"),  # another name
        ("/etc/passwd", "/etc/passwd"),  # in no mount
    ],
)
def test_an_option_names_a_file_as_on_the_host(
    named: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = "/etc/caso/voms.json=/etc/voms.json /var/spool/cloudkeeper/images=/image_data"
    monkeypatch.setenv(place.VARIABLE, places)
    assert place.inside(named) == found
    monkeypatch.delenv(place.VARIABLE)
    assert place.inside(named) == named
