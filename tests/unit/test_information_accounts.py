"""Accounts of the provider: of single VOs, of clouds.yaml, with refresh tokens; EGI's auditor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.cloud.login import Access
from appliance.core.run.errors import ApplianceError
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider import reading
from cloud_info_provider.facts import Facts
from tests.simulators import issuer as issuers
from tests.simulators import tls_peer
from tests.simulators.issuer import TOKEN, Issuer
from tests.simulators.offering_cloud import PASSWORD, Cloud, flavor, image
from tests.testbed.pki import Authority
from tests.unit.test_provider_settings import environment, load

__all__ = ["environment"]

NO_GOCDB = ("--gocdb-url", "")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud(
        flavors={name: [flavor("1")] for name in ("p0", "p1")},
        images={name: [image("a")] for name in ("p0", "p1")},
        credentials={"ac-0": ("p0", "geheim-00"), "ac-1": ("p1", "geheim-11")},
    )
    with made.serve():
        yield made


@pytest.fixture
def issuer(cloud: Cloud) -> Iterator[Issuer]:
    made = Issuer(refresh_tokens=frozenset({"refresh-0", "refresh-1"}))
    cloud.access_tokens = made.tokens
    with issuers.serving(made):
        yield made


def site(cloud: Cloud, *auths: str) -> str:
    vos = "".join(f"- {{name: vo{n}, auth: {{{auth}}}}}\n" for n, auth in enumerate(auths))
    return f"gocdb: EXAMPLE-SITE\nendpoint: {cloud.url}/identity/v3\nvos:\n{vos}"


def read(root: Path, *flags: str, text: str, rc: str | None = None) -> Facts:
    configuration = load(root, *NO_GOCDB, *flags, rc=rc, text=text)
    record = RunRecord("x", is_kept=False)
    return reading.read(configuration, Layout(root), record).facts


def refreshing(issuer: Issuer, *more: str) -> list[str]:
    return [
        *("--auth-refresher", "oidcvorefresh" if not more else "oidcrefresh"),
        *("--oidc-token-endpoint", f"{issuer.url}{TOKEN}", *more),
    ]


def test_each_vo_may_have_a_credential_of_its_own(cloud: Cloud, tmp_path: Path) -> None:
    """Also beside the common account, and a wrong one is the failure of its VO alone."""
    text = site(
        cloud,
        "project_id: p0, application_credential_id: ac-0, application_credential_secret: geheim-00",
        "project_id: p1, application_credential_id: ac-1, application_credential_secret: geheim-xx",
        "project_id: p1",
    )
    rc = f"OS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"
    found = read(tmp_path, text=text, rc=rc)
    assert [(share.vo, share.project_id) for share in found.shares] == [
        ("vo0", "p0"),
        ("vo2", "p1"),
    ]
    assert "refuses the application credential 'ac-1'" in found.failed["vo1"]
    path = tmp_path / "etc/cloud-info-provider/openstack.yaml"
    assert f"{path}:5" in found.failed["vo1"]
    assert "geheim-xx" not in found.failed["vo1"]


def test_secrets_in_a_directory_for_each_vo(cloud: Cloud, tmp_path: Path) -> None:
    for number in (0, 1):
        directory = tmp_path / f"secrets/vo{number}"
        directory.mkdir(parents=True)
        (directory / "application_credential_id").write_text(f"ac-{number}\n")
        (directory / "application_credential_secret").write_text(f"geheim-{number}{number}\n")
    text = site(cloud, "project_id: p0", "project_id: p1")
    found = read(tmp_path, "--oidc-credentials-path", str(tmp_path / "secrets"), text=text)
    assert [share.vo for share in found.shares] == ["vo0", "vo1"]


def test_a_missing_directory_of_secrets_is_an_error(cloud: Cloud, tmp_path: Path) -> None:
    """A misspelled path must not make all VOs use the common account; one VO may have no folder."""
    rc = f"OS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"
    flags = ("--oidc-credentials-path", str(tmp_path / "secrets"))
    text = site(cloud, "project_id: p0", "project_id: p1")
    with pytest.raises(ApplianceError) as raised:
        read(tmp_path, *flags, text=text, rc=rc)
    words = "does not exist; correct --oidc-credentials-path"
    assert str(raised.value) == f"{tmp_path}/secrets: {words}"
    (tmp_path / "secrets").mkdir()
    assert len(read(tmp_path, *flags, text=text, rc=rc).shares) == 2


def test_a_client_of_the_issuer_with_any_characters(
    cloud: Cloud, issuer: Issuer, tmp_path: Path
) -> None:
    issuer.secret = "тайна"
    flags = refreshing(
        issuer,
        *("--oidc-client-id", issuer.client_id, "--oidc-client-secret", issuer.secret),
        *("--oidc-refresh-token", "refresh-0"),
    )
    assert len(read(tmp_path, *flags, text=site(cloud, "project_id: p0")).shares) == 1


def test_a_secret_of_two_lines_names_its_file(cloud: Cloud, tmp_path: Path) -> None:
    directory = tmp_path / "secrets/vo0"
    directory.mkdir(parents=True)
    (directory / "password").write_text("geheim-1\ngeheim-2\n")
    with pytest.raises(ApplianceError) as raised:
        read(
            tmp_path,
            *("--oidc-credentials-path", str(tmp_path / "secrets")),
            text=site(cloud, "project_id: p0"),
            rc=f"OS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n",
        )
    assert str(raised.value) == f"{directory}/password: must hold one line, the value"


def test_one_refresh_token_for_all_vos_is_one_login(
    cloud: Cloud, issuer: Issuer, tmp_path: Path
) -> None:
    flags = refreshing(
        issuer,
        *("--oidc-client-id", issuer.client_id, "--oidc-client-secret", issuer.secret),
        *("--oidc-refresh-token", "refresh-0"),
    )
    found = read(tmp_path, *flags, text=site(cloud, "project_id: p0", "project_id: p1"))
    assert [share.vo for share in found.shares] == ["vo0", "vo1"]
    assert issuer.requests[TOKEN] == 1
    federated = [name for name in cloud.requests if "OS-FEDERATION" in name]
    assert sum(cloud.requests[name] for name in federated) == 1


def test_a_dead_refresh_token_is_tried_once(cloud: Cloud, issuer: Issuer, tmp_path: Path) -> None:
    flags = refreshing(
        issuer,
        *("--oidc-client-id", issuer.client_id, "--oidc-client-secret", issuer.secret),
        *("--oidc-refresh-token", "refresh-dead"),
    )
    with pytest.raises(ApplianceError) as raised:
        read(tmp_path, *flags, text=site(cloud, "project_id: p0", "project_id: p1"))
    assert "write a new one to --oidc-refresh-token" in str(raised.value)
    assert "refresh-dead" not in str(raised.value)
    assert issuer.requests[TOKEN] == 1


def test_a_refresh_token_for_each_vo(cloud: Cloud, issuer: Issuer, tmp_path: Path) -> None:
    for number in (0, 1):
        directory = tmp_path / f"secrets/vo{number}"
        directory.mkdir(parents=True)
        for name, text in (
            ("client_id", issuer.client_id),
            ("client_secret", issuer.secret),
            ("refresh_token", f"refresh-{number * 7}"),
        ):
            (directory / name).write_text(text)
    flags = [*refreshing(issuer), "--oidc-credentials-path", str(tmp_path / "secrets")]
    found = read(tmp_path, *flags, text=site(cloud, "project_id: p0", "project_id: p1"))
    assert [share.vo for share in found.shares] == ["vo0"]
    assert found.failed["vo1"].startswith(
        f"{issuer.url[7:]}: the issuer of access tokens answers 400 to a refresh token,"
        " invalid_grant: Invalid token; it has ended or was revoked: write a new one to"
        f" {tmp_path}/secrets/vo1/refresh_token"
    )


@pytest.mark.parametrize("rc", ["", f"OS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"])
def test_refresh_tokens_of_vos_that_have_none(
    cloud: Cloud, issuer: Issuer, tmp_path: Path, rc: str
) -> None:
    """With a common account the flag had no effect, else the message asked for OS_ACCESS_TOKEN."""
    (tmp_path / "secrets").mkdir()
    text = site(cloud, "project_id: p0")
    for more in ((), ("--oidc-credentials-path", str(tmp_path / "secrets"))):
        with pytest.raises(ApplianceError) as raised:
            read(tmp_path, *refreshing(issuer), *more, text=text, rc=rc)
        assert str(raised.value) == (
            "--auth-refresher: oidcvorefresh: no VO has an account of its own;"
            " write DIR/VO/refresh_token, and name DIR with --oidc-credentials-path"
        )


def test_a_secret_that_everybody_may_read_is_a_warning(
    cloud: Cloud, issuer: Issuer, tmp_path: Path
) -> None:
    directory = tmp_path / "secrets/vo0"
    directory.mkdir(parents=True)
    for name, mode in (("client_id", 0o644), ("client_secret", 0o644), ("refresh_token", 0o600)):
        (directory / name).write_text("geheim-99")
        (directory / name).chmod(mode)
    flags = [*refreshing(issuer), "--oidc-credentials-path", str(tmp_path / "secrets")]
    found = load(tmp_path, *flags, rc=None, text=site(cloud, "project_id: p0"))
    (warning,) = found.warnings
    path = directory / "client_secret"
    assert str(warning).startswith(f"{path}:1: vos[0].auth.client_secret: every user of this host")
    assert f"chmod o-r {path}" in str(warning)


def test_the_account_of_clouds_yaml(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "etc/cloud-info-provider/clouds.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "clouds:\n  mine:\n    auth:\n      username: ci\n      user_domain_name: Default\n"
        f"      auth_url: {cloud.url}/identity/v3\n  other: {{auth: {{username: x}}}}\n"
    )
    path.with_name("secure.yaml").write_text(
        f"clouds: {{mine: {{auth: {{password: {PASSWORD}}}}}}}\n"
    )
    text = site(cloud, "project_id: p0")
    assert len(read(tmp_path, "--os-cloud", "mine", text=text).shares) == 1
    with pytest.raises(ApplianceError) as raised:
        read(tmp_path, "--os-cloud", "nine", text=text)
    assert str(raised.value).startswith(f"{path}: clouds: has no cloud 'nine'; did you mean mine?")


@pytest.mark.parametrize(("auditors", "expected"), [({"p0"}, True), ({"p1"}, False)])
def test_the_role_of_egi_s_auditor(
    cloud: Cloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    auditors: set[str],
    expected: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    cloud.auditors = frozenset(auditors)
    path = tmp_path / "etc/cloud-info-provider/clouds.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "clouds: {auditor: {auth_type: v3applicationcredential, auth: {"
        f"auth_url: '{cloud.url}/identity/v3', application_credential_id: ac-0,"
        " application_credential_secret: geheim-00}}}\n"
    )
    rc = f"OS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"
    found = read(
        tmp_path, "--auditor-role-cloud", "auditor", text=site(cloud, "project_id: p1"), rc=rc
    )
    assert found.auditor_role is expected


def test_a_failing_look_at_the_auditor_costs_nothing_else(cloud: Cloud, tmp_path: Path) -> None:
    path = tmp_path / "etc/cloud-info-provider/clouds.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "clouds: {auditor: {auth: {auth_url: 'http://127.0.0.1:9/v3', username: a,"
        " user_domain_name: D, password: geheim-5}}}\n"
    )
    rc = f"OS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"
    found = read(
        tmp_path, "--auditor-role-cloud", "auditor", text=site(cloud, "project_id: p1"), rc=rc
    )
    assert (found.auditor_role, len(found.shares)) == (None, 1)


@pytest.mark.programs("openssl")
@pytest.mark.parametrize("is_named", [True, False])
def test_an_untrusted_certificate_names_the_option_that_trusts_it(
    tmp_path: Path, is_named: bool
) -> None:
    """F-I15: the remedy named an option of another program's file."""
    authorities = [Authority.create(tmp_path / name, key="ec") for name in ("ours", "other")]
    host = authorities[0].issue("keystone", hosts=("127.0.0.1",), key="ec")
    wrong = authorities[1].certificate
    rc = f"OS_USERNAME=ci\nOS_PASSWORD={PASSWORD}\n"
    rc += f"export OS_CACERT={wrong}\n" if is_named else ""
    vo = f"project_id: p1, cacert: {wrong}, password: x"
    with tls_peer.serving(host.certificate, host.key) as peer:
        url = f"https://127.0.0.1:{peer.port}"
        head = f"gocdb: A\nendpoint: {url}/v3\nvos:\n- {{name: "
        text = f"{head}a, auth: {{project_id: p0}}}}\n"
        with pytest.raises(ApplianceError) as common:
            read(tmp_path, text=text, rc=rc)
        with pytest.raises(ApplianceError) as own:
            read(tmp_path, text=f"{head}b, auth: {{{vo}}}}}\n", rc=rc)
    directory = tmp_path / "etc/cloud-info-provider"
    place = f" ({directory}/openstack.rc:3)" if is_named else ""
    assert f"; set OS_CACERT{place} to the authority that issued it" in str(common.value)
    words = f"; set vos[0].auth.cacert ({directory}/openstack.yaml:4) to the authority"
    assert words in str(own.value)


def test_other_programs_name_the_option_by_its_section() -> None:
    """cASO and cloudkeeper-os have it under one name, each in a section of its own."""
    named = Access("v3password", "https://k.example.org/v3", {}, section="keystone_authtoken")
    assert named.trust_option == "cafile in [keystone_authtoken]"
