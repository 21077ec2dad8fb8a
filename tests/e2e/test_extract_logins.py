"""caso-extract with a federated account: one login a run, and failures of it blame no project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.run import log
from caso.cmds import extract
from tests.simulators import issuer as issuers
from tests.simulators import openstack
from tests.simulators.issuer import DISCOVERY, TOKEN, Issuer
from tests.simulators.openstack import Answer, Cloud, Request


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    monkeypatch.setattr(log, "_secrets", set())
    with issuers.serving(Issuer()) as served:
        yield served


@pytest.fixture
def cloud(issuer: Issuer) -> Iterator[Cloud]:
    names = tuple(f"p{number:02}" for number in range(50))
    made = Cloud(projects=names, servers=2, deleted=1, access_tokens=issuer.tokens)
    with openstack.serving(made) as served:
        yield served


def run(cloud: Cloud, issuer: Issuer, root: Path, *, expect: int = 0) -> None:
    configuration = root / "caso.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        "[DEFAULT]\nmessengers = ssm\nsite_name = S\n[keystone_auth]\n"
        f"auth_type = v3oidcclientcredentials\nauth_url = {cloud.url}/v3\n"
        "identity_provider = egi.eu\nprotocol = openid\nopenid_scope = openid email\n"
        f"client_id = {issuer.client_id}\nclient_secret = {issuer.secret}\n"
        f"discovery_endpoint = {issuer.discovery}\n"
    )
    flags = ["--root", str(root), "--config-file", str(configuration)]
    assert extract.main(flags) == expect


def reported(capsys: pytest.CaptureFixture[str]) -> list[str]:
    shown = capsys.readouterr().err.splitlines()
    return [line for line in shown if line.startswith("caso-extract: ")]


def test_fifty_projects_take_one_login(cloud: Cloud, issuer: Issuer, tmp_path: Path) -> None:
    """F-L1: one discovery, one access token, one federated token where there were 52 of each."""
    run(cloud, issuer, tmp_path)
    federated = cloud.requests["POST /v3/OS-FEDERATION/identity_providers"]
    assert issuer.requests == {DISCOVERY: 1, TOKEN: 1}
    assert issuer.requests.total() + federated == 3
    assert cloud.requests["POST /v3/auth/tokens"] == len(cloud.projects) + 1  # and the system
    record = json.loads((tmp_path / "var/lib/fedcloud/runs/caso-extract.json").read_text())
    assert record["counts"]["projects"] == 50
    assert record["counts"]["api_requests"] == issuer.requests.total() + cloud.requests.total()


@pytest.mark.parametrize("is_midway", [False, True])
def test_an_issuer_that_fails_is_one_line(
    cloud: Cloud,
    issuer: Issuer,
    tmp_path: Path,
    is_midway: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """F-L2, F-L3: the issuer is named with file and line, no project is blamed, nothing is lost."""
    refusal = Answer(400, {"error": "invalid_scope", "error_description": "no such scope"})

    def spoil(request: Request) -> Answer | None:
        if request.path.endswith("/servers/detail") and not cloud.closed:
            cloud.closed = frozenset({"once"})
            issuer.fault = lambda path: refusal if path == TOKEN else None
            cloud.revoke_all()
        return None

    if is_midway:
        cloud.fault = spoil
    else:
        issuer.fault = lambda path: refusal if path == TOKEN else None
    run(cloud, issuer, tmp_path, expect=3)
    [line] = reported(capsys)
    assert line == (
        f"caso-extract: {issuer.url[7:]}: the issuer of access tokens refuses the client"
        " 'accounting-client': it answers 400, invalid_scope: no such scope;"
        f" correct scope ({tmp_path}/caso.conf:9), or have the scope allowed"
    )
    assert issuer.requests[TOKEN] == (2 if is_midway else 1)
    issuer.fault, cloud.fault = lambda _: None, lambda _: None
    run(cloud, issuer, tmp_path)
    record = json.loads((tmp_path / "var/lib/fedcloud/runs/caso-extract.json").read_text())
    assert record["counts"]["projects_failed"] == 0
