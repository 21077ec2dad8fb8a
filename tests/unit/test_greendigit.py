"""GreenDIGIT's service CIM: a token, then arrays; what it refuses is set aside alone."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from appliance.core.run import log
from appliance.core.web import WebAddress
from caso.checkpoint import Checkpoints
from caso.kinds.kind import UsageRecord
from caso.kinds.registry import KINDS
from caso.messengers.greendigit_cim import GreenDigit
from tests.unit.test_caso_settings import LOGIN, load, problems
from tests.unit.test_network_messengers import ALL, put, waiting, words
from tests.wire.records import VOLUME
from tests.wire.test_cloud import FULL

TOKEN = "t0ken-of-the-service"
PASSWORD = "pass & word"


@pytest.fixture
def cim(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> HTTPServer:
    monkeypatch.setattr(log, "_secrets", set())
    httpserver.expect_request(
        "/gd-cim-api/v1/token", query_string={"email": "a@b.org", "password": PASSWORD}
    ).respond_with_json({"access_token": TOKEN})
    return httpserver


def greendigit(server: HTTPServer, *, seconds: float = 30) -> GreenDigit:
    address = WebAddress(server.url_for("").rstrip("/"), None, timedelta(seconds=seconds))
    return GreenDigit(address, "a@b.org", PASSWORD, ALL)


def taking(
    server: HTTPServer, judge: Callable[[list[dict[str, Any]]], int] = lambda _: 200
) -> list[dict[str, Any]]:
    """Serve the submission; return the list of what it accepts."""
    taken: list[dict[str, Any]] = []

    def submit(request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return Response("no token", 401)
        found = json.loads(request.data)
        status = judge(found)
        if status == 200:
            taken.extend(found)
        return Response(json.dumps({"detail": "as judged"}), status)

    server.expect_request("/gd-cim-api/v1/submit", method="POST").respond_with_handler(submit)
    return taken


def numbered(count: int) -> list[UsageRecord]:
    return [replace(VOLUME, volume_id=f"volume-{number}") for number in range(count)]


def test_a_token_then_arrays_of_records(cim: HTTPServer, tmp_path: Path) -> None:
    taken = taking(cim)
    messenger = greendigit(cim).open(Checkpoints(tmp_path))
    put(messenger, "storage", numbered(1200))
    put(messenger, "cloud", [FULL])
    assert messenger.deliver() == []
    assert len(taken) == 1201
    assert dict(KINDS["cloud"].fields(FULL)) in taken
    asked = [request.path for request, _ in cim.log]
    assert asked.count("/gd-cim-api/v1/token") == 1
    assert asked.count("/gd-cim-api/v1/submit") == 4
    assert waiting(tmp_path) == []


def test_a_record_that_is_refused_is_set_aside_alone(cim: HTTPServer, tmp_path: Path) -> None:
    bad = {"volume-3", "volume-700"}
    taken = taking(cim, lambda found: 422 if bad & {one["VolumeUUID"] for one in found} else 200)
    messenger = greendigit(cim).open(Checkpoints(tmp_path))
    put(messenger, "storage", numbered(1000))
    failures = messenger.deliver()
    assert len(taken) == 998
    assert {str(one).split(" 20")[0] for one in failures} == {
        "record volume-3",
        "record volume-700",
    }
    assert 'answers 422: {"detail": "as judged"}' in words(failures)
    kept = [path.read_text() for path in (tmp_path / "quarantine").iterdir()]
    assert len(kept) == 2
    assert all("refused: " in text and "volume-" in text for text in kept)
    assert waiting(tmp_path) == []


def test_when_everything_is_refused_no_record_is_to_blame(cim: HTTPServer, tmp_path: Path) -> None:
    taking(cim, lambda _: 400)
    messenger = greendigit(cim).open(Checkpoints(tmp_path))
    put(messenger, "storage", numbered(3))
    put(messenger, "cloud", [FULL])
    (failure,) = messenger.deliver()
    assert "refuses all" in str(failure)
    assert waiting(tmp_path) == ["p1.cloud", "p1.storage"]
    assert not (tmp_path / "quarantine").exists()


def test_a_lone_record_is_to_blame_beside_another_file(cim: HTTPServer, tmp_path: Path) -> None:
    taken = taking(cim, lambda found: 400 if "VMUUID" in found[0] else 200)
    messenger = greendigit(cim).open(Checkpoints(tmp_path))
    put(messenger, "cloud", [FULL])
    put(messenger, "storage", [VOLUME])
    (failure,) = messenger.deliver()
    assert str(failure).startswith(f"record {FULL.vm_uuid}")
    assert len(taken) == 1
    assert waiting(tmp_path) == []


@pytest.mark.parametrize("status", [302, 403, 404, 429, 500, 503])
def test_records_wait_when_the_service_is_not_well(
    status: int, cim: HTTPServer, tmp_path: Path
) -> None:
    taking(cim, lambda _: status)
    messenger = greendigit(cim).open(Checkpoints(tmp_path))
    put(messenger, "storage", [VOLUME])
    (failure,) = messenger.deliver()
    assert f"answers {status}" in str(failure)
    assert waiting(tmp_path) == ["p1.storage"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("close", "cannot be reached: "),
        ("hang", "does not answer within 0.5 s"),
    ],
)
def test_without_an_answer_nothing_is_accepted(
    fault: str, said: str, cim: HTTPServer, tmp_path: Path
) -> None:
    """The service may have taken the records: they are sent again, and nothing else is."""
    released = threading.Event()

    def submit(request: Request) -> Response:
        if fault == "close":
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        else:
            released.wait(30)
        return Response("late")

    path = "/gd-cim-api/v1/submit"
    cim.expect_oneshot_request(path, method="POST").respond_with_handler(submit)
    messenger = greendigit(cim, seconds=0.5 if fault == "hang" else 30).open(Checkpoints(tmp_path))
    put(messenger, "storage", [VOLUME])
    (failure,) = messenger.deliver()
    released.set()
    assert said in str(failure)
    assert waiting(tmp_path) == ["p1.storage"]
    taken = taking(cim)
    assert greendigit(cim).open(Checkpoints(tmp_path)).deliver() == []
    assert len(taken) == 1
    assert waiting(tmp_path) == []


@pytest.mark.parametrize("bad", ["", "volume-3"])
def test_acknowledged_arrays_are_not_sent_again(bad: str, cim: HTTPServer, tmp_path: Path) -> None:
    """A service that fails at its third array, run after run, gets the first ones once."""
    ill = "volume-1100"

    def judge(found: list[dict[str, Any]]) -> int:
        names = {one["VolumeUUID"] for one in found}
        return 500 if ill in names else 422 if bad in names else 200

    taken = taking(cim, judge)
    messenger = greendigit(cim).open(Checkpoints(tmp_path))
    put(messenger, "storage", numbered(1200))
    for _ in range(3):
        (failure,) = messenger.deliver()
        assert "answers 500" in str(failure)
    names = [one["VolumeUUID"] for one in taken]
    assert waiting(tmp_path) == ["p1.storage"]
    if not bad:
        assert names == [f"volume-{number}" for number in range(1000)]
    ill = ""
    failures = messenger.deliver()
    assert {one["VolumeUUID"] for one in taken} == {
        f"volume-{number}" for number in range(1200)
    } - {bad}
    assert [str(one).split(" 20")[0] for one in failures] == [f"record {bad}"] * bool(bad)
    assert waiting(tmp_path) == []


def test_a_token_that_ends_is_replaced_once(httpserver: HTTPServer, tmp_path: Path) -> None:
    tokens = iter(["old", TOKEN, "never"])
    path = "/gd-cim-api/v1/token"
    httpserver.expect_request(path).respond_with_handler(
        lambda _: Response(json.dumps({"token": next(tokens)}))
    )
    taken = taking(httpserver)
    messenger = greendigit(httpserver).open(Checkpoints(tmp_path))
    put(messenger, "storage", [VOLUME])
    assert messenger.deliver() == []
    assert len(taken) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Response("no", 401), "check [greendigit_cim] email and password"),
        (Response("no", 500), "answers 500"),
        (Response("<html>"), "answers without a token"),
        (Response("[]"), "answers without a token"),
        (Response('{"token": "a\\nb"}'), "answers without a token"),
        (Response("", 302, {"Location": "http://other/"}), "answers 302"),
    ],
)
def test_logins_that_fail_show_no_secret(
    answer: Response, said: str, httpserver: HTTPServer, tmp_path: Path
) -> None:
    httpserver.expect_request("/gd-cim-api/v1/token").respond_with_response(answer)
    messenger = greendigit(httpserver).open(Checkpoints(tmp_path))
    put(messenger, "storage", [VOLUME])
    (failure,) = messenger.deliver()
    assert said in str(failure)
    assert PASSWORD not in str(failure)
    assert "pass" not in str(failure).replace("password", "")
    assert waiting(tmp_path) == ["p1.storage"]


def test_the_service_is_away(httpserver: HTTPServer, tmp_path: Path) -> None:
    messenger = greendigit(httpserver).open(Checkpoints(tmp_path))
    put(messenger, "storage", [VOLUME])
    httpserver.stop()
    (failure,) = messenger.deliver()
    assert "cannot be reached: connection refused" in str(failure)
    httpserver.start()


def test_several_messengers_each_with_its_kinds(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pass & word\n")
    secret.chmod(0o600)
    text = f"[DEFAULT]\nsite_name = S\nmessengers = ssm,logstash,greendigit_cim\n{LOGIN}"
    text += "[logstash]\nhost = logs\nport = 6000\n[messenger_logstash]\nrecord_types = storage\n"
    text += f"[greendigit_cim]\nemail = a@b.org\npassword_file = {secret}\n"
    read = load(tmp_path, text)
    assert {one.name: [kind.name for kind in one.kinds] for one in read.messengers} == {
        "ssm": ["cloud"],
        "logstash": ["storage"],
        "greendigit_cim": ["cloud"],
    }
    shown = "; ".join(one.describe() for one in read.messengers)
    assert "volumes, StAR, as lines of JSON, to logs:6000" in shown
    assert "to https://greendigit-cim.sztaki.hu as a@b.org" in shown
    assert "pass" not in repr(read.messengers)
    assert read.missing == ("accelerator", "ip")
    assert read.warnings == ()


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ("email = a@b.org", "[greendigit_cim] password: must be set, or password_file"),
        ("password = x", "[greendigit_cim] email: must be set: the account at the service"),
        (
            "email = a@b.org\npassword = x\nbase_url = https://u:p@h/",
            "[greendigit_cim] base_url: holds an account",
        ),
        (
            "email = a@b.org\npassword_file = secret",
            "[greendigit_cim] password_file: must be the absolute path of a file",
        ),
    ],
)
def test_an_account_that_cannot_be_used(options: str, reported: str, tmp_path: Path) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = greendigit_cim\n{LOGIN}"
    shown = problems(tmp_path, f"{text}[greendigit_cim]\n{options}\n")
    assert any(reported in line for line in shown)


def test_certificates_are_always_verified(tmp_path: Path) -> None:
    text = f"[DEFAULT]\nsite_name = S\nmessengers = greendigit_cim\n{LOGIN}[greendigit_cim]\n"
    text += "email = a@b.org\npassword = x-y-z-1\nverify_ssl = false\nbase_url = http://h\n"
    warnings = [problem.text for problem in load(tmp_path, text).warnings]
    assert "has no effect: the service's certificate is always verified" in warnings
    assert "anybody on the network may read the password" in warnings
