from pathlib import Path

import pytest

from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout
from ssm.settings import (
    AMSAccess,
    Broker,
    JournalSection,
    SenderSettings,
    load_receiver,
    load_sender,
)

SENDER = """\
[sender]
protocol: STOMP
[broker]
host: broker.example.net:6162
[certificates]
certificate: {0}/cert.pem
key: {0}/key.pem
[messaging]
destination: /queue/accounting
path: {0}/outgoing
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("not looked into here\n")
    return tmp_path


def load(directory: Path, text: str) -> SenderSettings:
    (directory / "sender.cfg").write_text(text)
    return load_sender(directory / "sender.cfg", layout=Layout(directory))


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, text)
    return [str(problem).split("sender.cfg")[1] for problem in caught.value.problems]


def warnings(settings: SenderSettings) -> list[str]:
    return [str(problem).split("sender.cfg")[1] for problem in settings.warnings]


def test_the_file_of_ssm_4_apart_from_the_protocol(directory: Path) -> None:
    text = """\
# Sender configuration
[sender]
protocol: STOMP

[broker]
host: broker.example.net
# port = 443
use_ssl: true

[certificates]
certificate: {0}/cert.pem
key: {0}/key.pem
capath: {0}
#server_cert: /etc/grid-security/servercert.pem

[messaging]
ams_project: accounting
destination: /queue/accounting
path: {0}/outgoing
path_type: dirq

[logging]
logfile: {0}/ssmsend.log
level: INFO
console: true
"""
    settings = load(directory, text.format(directory))
    assert settings.link.brokers == (Broker("broker.example.net", 443),)
    assert settings.link.use_ssl
    assert (settings.server_cert, settings.cipher, settings.warnings) == (None, "aes128", ())
    assert (settings.log.level, settings.log.console) == (20, True)


def test_defaults_are_ssm_s_and_lie_below_the_site_s_root(directory: Path) -> None:
    grid = directory / "etc/grid-security"
    (grid / "certificates").mkdir(parents=True)
    for name in ("hostcert.pem", "hostkey.pem"):
        (grid / name).write_text("x")
    settings = load(directory, "[broker]\nhost: h\n[messaging]\ndestination: /queue/q\n")
    assert settings.link.certificate == grid / "hostcert.pem"
    assert settings.link.key == grid / "hostkey.pem"
    assert settings.link.capath == grid / "certificates"
    assert settings.path == directory / "var/spool/apel/outgoing"
    assert settings.log.file == directory / "var/log/apel/ssmsend.log"
    assert warnings(settings) == [": [sender] protocol: not set; STOMP is assumed, as before SSM 4"]


def test_hosts_are_a_list(directory: Path) -> None:
    text = SENDER.format(directory).replace(
        "broker.example.net:6162", "a.example.net:6162, [2001:db8::1]:61612 ,b\nport: 7"
    )
    brokers = load(directory, text).link.brokers
    assert [str(broker) for broker in brokers] == [
        "a.example.net:6162",
        "[2001:db8::1]:61612",
        "b:7",
    ]


@pytest.mark.parametrize("protocol", ["STOMP", "AMS\nams_project: x"])
@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("msg..example.com:1", "msg..example.com"),
        ("x" * 70 + ".example.com", "x" * 70 + ".example.com"),
        ("[:::]:1", ":::"),
        ("a%b", "a%b"),
    ],
)
def test_names_that_no_host_can_have(directory: Path, protocol: str, host: str, shown: str) -> None:
    name, _, more = protocol.partition("\n")
    text = (
        SENDER.format(directory)
        .replace("STOMP", name)
        .replace("/queue/", "")
        .replace("broker.example.net:6162", host)
    )
    reported = f":4: [broker] host: no host can have the name '{shown}'; write host or host:port"
    assert problems(directory, f"{text}{more}\n") == [reported]


@pytest.mark.parametrize("account", ["user:geheimes@", "geheimes@", "stomp://user:geheimes@"])
def test_the_password_of_an_account_at_a_host_is_not_shown(directory: Path, account: str) -> None:
    text = SENDER.format(directory).replace("host: broker", f"host: {account}broker")
    reported = (
        ":4: [broker] host: an account is not allowed; write host or host:port, several with commas"
    )
    assert problems(directory, text) == [reported]


def test_everything_wrong_comes_at_once(directory: Path) -> None:
    text = """\
[sender]
protocol: HTTP
[broker]
host: a:b:c, d:70000
use_ssl: maybe
[certificates]
certificate: {0}/cert.pem
key: {0}/none.pem
server_cert: {0}/cert.pem
[messaging]
path: spool
path_type: plain
[logging]
level: LOUD
"""
    found = problems(directory, text.format(directory))
    assert len(found) == 10
    shown = "\n".join(found)
    for expected in (
        ": [messaging] destination: must be set: the queue, for example /queue/NAME",
        ":2: [sender] protocol: 'HTTP' is not allowed; write STOMP or AMS",
        ":4: [broker] host: 'a:b:c' is not allowed; write host or host:port, several with commas",
        ":4: [broker] host: 'd:70000' is not allowed",
        ":5: [broker] use_ssl: 'maybe' is not allowed; write true or false",
        f":8: [certificates] key: file {directory}/none.pem does not exist",
        ":9: [certificates] server_cert: is this host's own",
        ":11: [messaging] path: must be an absolute path, not 'spool'",
        ":12: [messaging] path_type: 'plain' is not allowed; write dirq or directory",
        ":14: [logging] level: 'LOUD' is not allowed",
    ):
        assert expected in shown


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("host: broker.example.net:6162", "bdii: ldap://bdii.example.net:2170\nnetwork: PROD"),
            "host: HOST:PORT",
        ),
        (("broker.example.net", "msg.example.org"), "is still the placeholder"),
        (("host: broker.example.net:6162", "host:"), "must be set: name the message broker"),
    ],
)
def test_a_broker_must_be_named(directory: Path, change: tuple[str, str], expected: str) -> None:
    assert any(
        expected in line for line in problems(directory, SENDER.format(directory).replace(*change))
    )


def test_paths_that_cannot_be_used_are_reported_with_their_lines(directory: Path) -> None:
    long = directory / ("x" * 256)
    text = SENDER.format(directory).replace("[sender]", "[receiver]")
    text = text.replace(
        f"path: {directory}/outgoing", f"path: {long}\n[daemon]\npidfile: {directory}"
    )
    (directory / "receiver.cfg").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_receiver(directory / "receiver.cfg", layout=Layout(directory))
    assert str(caught.value).splitlines() == [
        f"{directory}/receiver.cfg:10: [messaging] path: {long} cannot be used: file name too long",
        f"{directory}/receiver.cfg:12: [daemon] pidfile: {directory} is a directory",
    ]


def test_settings_that_give_a_warning(directory: Path) -> None:
    """D12: `use_ssl: false` among others."""
    (directory / "outgoing/openstack/6b029cc8").mkdir(parents=True)
    (directory / "outgoing/6b029cc8").mkdir()
    text = SENDER.format(directory).replace(
        "/queue/accounting", "/queue/global.accounting.test.cloud.central"
    )
    text = text.replace("[certificates]", "bdii: ldap://x\nuse_ssl: false\n[certificates]")
    assert warnings(load(directory, text)) == [
        (
            ":5: [broker] bdii: brokers are no longer looked up in the information system; this "
            "option is ignored; host is used"
        ),
        (
            ":6: [broker] use_ssl: messages are sent unencrypted and the broker is not "
            "verified; write true"
        ),
        (
            ":11: [messaging] destination: /queue/global.accounting.test.cloud.central is a "
            "test queue: "
            "messages sent there are not accounted"
        ),
        (
            f":12: [messaging] path: {directory}/outgoing/openstack is a spool of its own, "
            "which is not sent; "
            "if you mean that one, set path to it"
        ),
    ]


@pytest.mark.parametrize(
    ("value", "policy"),
    [
        ("true", "require"),
        ("False", "warn"),
        ("require", "require"),
        ("off", "off"),
        ("warn", "warn"),
    ],
)
def test_check_crls_takes_both_vocabularies(directory: Path, value: str, policy: str) -> None:
    text = SENDER.format(directory).replace("[sender]", "[receiver]")
    (directory / "receiver.cfg").write_text(
        text.replace("[messaging]", f"check_crls: {value}\n[messaging]")
    )
    settings = load_receiver(directory / "receiver.cfg", layout=Layout(directory))
    assert settings.crls == policy
    text = SENDER.format(directory).replace("[messaging]", f"check_crls: {value}\n[messaging]")
    (directory / "sender.cfg").write_text(text)
    assert load_sender(directory / "sender.cfg", layout=Layout(directory)).crls == policy  # F-T2
    assert settings.pidfile == directory / "var/run/apel/ssmreceive.pid"


AMS = """\
[sender]
protocol: AMS
[broker]
host: msg.example.net
[certificates]
certificate: {0}/cert.pem
key: {0}/key.pem
[messaging]
ams_project: accounting
destination: eu-egi-cloud-accounting
path: {0}/outgoing
"""


def test_ams_as_ssm_4_ships_it(directory: Path) -> None:
    """Port and TLS are AMS's own; a port that an older file left there is none of AMS."""
    link = load(directory, AMS.format(directory)).link
    assert link.brokers == (Broker("msg.example.net", 443),)
    assert link.ams == AMSAccess("accounting", "", 8443, system_cas=True)
    assert link.use_ssl
    settings = load(
        directory,
        AMS.format(directory).replace("[certificates]", "port: 6163\nuse_ssl: no\n[certificates]"),
    )
    assert settings.link.brokers == (Broker("msg.example.net", 443),)
    assert settings.link.use_ssl
    assert warnings(settings) == [
        (
            ":5: [broker] port: has no effect with AMS; to use a port other than 443, write host: "
            "HOST:PORT"
        ),
        ":6: [broker] use_ssl: has no effect: AMS always uses TLS; write true",
    ]


def test_ams_options_of_our_own(directory: Path) -> None:
    text = AMS.format(directory).replace(
        "msg.example.net", "a.example.net, b:4443\nauthn_port: 8444\nsystem_cas: false"
    )
    link = load(directory, text).link
    assert link.brokers == (Broker("a.example.net", 443), Broker("b", 4443))
    assert link.ams == AMSAccess("accounting", "", 8444, system_cas=False)


def test_a_token_may_be_in_a_file_of_its_own(directory: Path) -> None:
    (directory / "token").write_text("geheim\n")
    (directory / "token").chmod(0o600)
    line = f"token_file: {directory}/token"
    text = AMS.format(directory).replace("[messaging]", f"[messaging]\n{line}")
    settings = load(directory, text)
    assert settings.link.ams is not None
    assert settings.link.ams.token == "geheim"
    assert "geheim" not in repr(settings)
    found = problems(directory, text.replace(line, f"token: other\n{line}"))
    expected = ":10: [messaging] token_file: token is set as well; remove one of the two"
    assert expected in found
    (directory / "token").write_text("gehe im\n")
    [problem] = problems(directory, text)
    assert "[messaging] token_file: holds blanks or characters" in problem


def test_a_token_is_taken_and_shown_nowhere(directory: Path) -> None:
    text = AMS.format(directory).replace("[messaging]", "[messaging]\ntoken: geheim")
    (directory / "sender.cfg").touch(0o644)
    settings = load(directory, text)
    assert settings.link.ams is not None
    assert settings.link.ams.token == "geheim"
    assert "geheim" not in repr(settings)
    assert warnings(settings) == [
        ":9: [messaging] token: every user of this host may read this file; chmod 0640"
    ]
    (directory / "sender.cfg").chmod(0o640)
    assert load(directory, text).warnings == ()
    [problem] = problems(directory, text.replace("geheim", "geheim nis"))
    assert problem == ":9: [messaging] token: holds blanks or characters that a token cannot have"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("ams_project: accounting", "ams_project:"),
            "[messaging] ams_project: must be set: the project at AMS",
        ),
        (
            ("ams_project: accounting", "ams_project: a/b"),
            "'a/b' is not a valid name of an AMS project",
        ),
        (
            ("eu-egi-cloud-accounting", "/queue/x"),
            "'/queue/x' is not a valid name at AMS; name the topic",
        ),
        (
            ("destination: eu-egi-cloud-accounting", ""),
            "[messaging] destination: must be set: the topic; EGI's",
        ),
        (
            ("host: msg.example.net", "host:"),
            "[broker] host: must be set: EGI's is msg.argo.grnet.gr",
        ),
        (("host: msg.example.net", "host: msg.example.net\nauthn_port: 0"), "[broker] authn_port"),
    ],
)
def test_faults_in_settings_for_ams(
    directory: Path, change: tuple[str, str], expected: str
) -> None:
    assert any(
        expected in line for line in problems(directory, AMS.format(directory).replace(*change))
    )


def test_options_of_ams_disturb_no_stomp(directory: Path) -> None:
    text = SENDER.format(directory).replace("[messaging]", "[messaging]\nams_project: x\ntoken: y")
    settings = load(directory, text)
    assert settings.link.ams is None
    assert settings.warnings == ()


def test_the_journal_of_sent_messages(directory: Path) -> None:
    journal = load(directory, SENDER.format(directory)).kept.journal
    assert journal.path == directory / "var/lib/fedcloud/ssm/sent.sqlite"
    assert journal.months == 24
    (directory / "folder").mkdir()
    text = SENDER.format(directory)
    for lines, expected in (
        ("path: sent.sqlite", "path: must be an absolute path, not 'sent.sqlite'"),
        (f"path: {directory}/folder", f"path: {directory}/folder is a directory"),
        ("months: two", "months: 'two' is not allowed; write a whole number from 0 to 1200"),
        ("months: -1", "months: '-1' is not allowed; write a whole number from 0 to 1200"),
    ):
        [line] = problems(directory, f"{text}\n[journal]\n{lines}\n")
        assert line.endswith(f": [journal] {expected}")
    found = load(directory, f"{text}\n[journal]\npath: {directory}/a.sqlite\nmonths: 0\n")
    assert found.kept.journal == JournalSection(directory / "a.sqlite", 0)
    assert found.warnings == ()
