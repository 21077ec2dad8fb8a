"""cloudkeeper.yml in the forms that sites have, and the messages for errors in it."""

import argparse
import logging
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core.run import cli
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout
from cloudkeeper.frontend import settings
from cloudkeeper.frontend.commands import sync
from cloudkeeper.frontend.settings import FrontendSettings
from cloudkeeper.model import Format

ETC = Path(__file__).parents[2] / "etc" / "cloudkeeper"
URL = "https://lists.example.org/image.list"

FULL = """\
---
cloudkeeper:
  image-lists: # the lists
    - https://lists.example.org/image.list
    - https://lists.example.org/other.list
  ca-dir: {root}
  authentication: true
  certificate: {root}/host.pem
  key: {root}/host.key
  image-dir: {root}/images
  external-tools:
    execution-timeout: 30
    binaries:
      qemu-img: /opt/qemu-img
      nginx: /usr/bin/nginx
  remote-mode: false
  nginx:
    runtime-dir: /var/run/cloudkeeper/
    port: 50505
    ip-address: 127.0.0.1
    proxy:
      ip-address:
      port:
      ssl: false
  backend:
    endpoint: backend:50051
    certificate: {root}/backend.pem
  formats:
    - raw
    - QCOW2
  logging:
    level: WARN
    file: {root}/log
  lock-file: {root}/lock
  debug: false
"""


def parse(*flags: str) -> argparse.Namespace:
    program = cli.Program("cloudkeeper", "", sync.add_arguments, sync.run)
    return cli.parser(program).parse_args([*flags])


def load(root: Path, text: str, *flags: str) -> FrontendSettings:
    path = root / "etc/cloudkeeper/cloudkeeper.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("{root}", str(root)))
    return settings.load(parse(*flags), Layout(root))


def problems(root: Path, text: str, *flags: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(root, text, *flags)
    return [
        str(problem).removeprefix(f"{root}/etc/cloudkeeper/") for problem in caught.value.problems
    ]


def test_every_option_of_1_7_1(tmp_path: Path) -> None:
    for name in ("host.pem", "host.key", "backend.pem"):
        (tmp_path / name).touch()
    found = load(tmp_path, FULL)
    assert [one.name for one in found.lists] == [URL, "https://lists.example.org/other.list"]
    assert found.certificates == (
        tmp_path / "host.pem",
        tmp_path / "host.key",
        tmp_path / "backend.pem",
    )
    assert (found.ca_dir, found.image_dir, found.lock_file) == (
        tmp_path,
        tmp_path / "images",
        tmp_path / "lock",
    )
    assert (found.qemu_img, found.patience) == (Path("/opt/qemu-img"), timedelta(seconds=30))
    assert (found.endpoint, found.formats) == ("backend:50051", (Format.RAW, Format.QCOW2))
    assert (found.log_file, found.log_level) == (tmp_path / "log", logging.WARNING)
    assert found.warnings == ()


def test_defaults_are_the_peer_s(tmp_path: Path) -> None:
    found = load(tmp_path, f"cloudkeeper:\n  image-lists: [{URL}]\n")
    assert found.ca_dir == tmp_path / "etc/grid-security/certificates"
    assert found.image_dir == tmp_path / "var/spool/cloudkeeper/images"
    assert found.lock_file == tmp_path / "var/lock/cloudkeeper/cloudkeeper.lock"
    assert found.log_file == tmp_path / "var/log/cloudkeeper/cloudkeeper.log"
    assert found.log_level == logging.ERROR
    assert (found.formats, found.certificates) == ((Format.QCOW2,), None)
    # the peer's is 127.0.0.1:50051
    assert found.endpoint == f"unix://{tmp_path}/run/cloudkeeper/backend.sock"
    assert found.warnings == ()
    assert (found.qemu_img, found.patience) == (Path("/usr/bin/qemu-img"), timedelta(minutes=10))


def test_debug_is_off_unless_asked_for() -> None:
    assert [parse(*flags).debug for flags in ([], ["--debug"], ["--debug", "--no-debug"])] == [
        False,
        True,
        False,
    ]


def test_flags_win(tmp_path: Path) -> None:
    flags = [
        "--image-lists",
        URL,
        "--formats",
        "raw",
        "vmdk",
        "--backend-endpoint",
        "[::1]:1",
        "--no-authentication",
    ]
    flags += ["--logging-level", "debug", "--nginx-port", "1", "--logging-file", ""]
    found = load(
        tmp_path,
        "cloudkeeper: {authentication: true, formats: [qcow2], backend: {endpoint: 'a:2'}}",
        *flags,
    )
    assert [one.name for one in found.lists] == [URL]
    assert (found.formats, found.endpoint, found.certificates) == (
        (Format.RAW, Format.VMDK),
        "[::1]:1",
        None,
    )
    assert (found.log_level, found.log_file) == (logging.DEBUG, None)


def test_the_list_file(tmp_path: Path) -> None:
    """R37."""
    default = tmp_path / "etc/cloudkeeper/image-lists.conf"
    default.parent.mkdir(parents=True)
    default.write_text(f"# x\n{URL}\nnonsense\n")
    found = load(tmp_path, "cloudkeeper:\n  formats: raw\n")
    assert [one.origin for one in found.lists] == [f"{default}:2"]
    assert [str(problem) for problem in found.list_problems] == [
        f"{default}:3: does not begin with https://; write https://HOST/PATH"
    ]
    other = tmp_path / "other"
    other.write_text("https://lists.example.org/third.list\n")
    found = load(tmp_path, f"cloudkeeper:\n  image-lists-file: {other}\n")
    assert [one.name for one in found.lists] == ["https://lists.example.org/third.list"]


def test_the_single_list_of_2_0(tmp_path: Path) -> None:
    found = load(tmp_path, f"cloudkeeper:\n  image-list: {URL}\n  verify-image-list: true\n")
    assert [one.name for one in found.lists] == [URL]


def test_all_errors_are_reported_with_their_lines(tmp_path: Path) -> None:
    text = (
        "cloudkeeper:\n"
        "  image-lists-file: /nowhere\n"
        "  formats: [qcow2, vhd]\n"
        "  backend:\n"
        "    endpoint: localhost\n"
        "  remote-mode: yes\n"
        "  logging: {level: LOUD}\n"
        "  verify-image-list: false\n"
        "  external-tools: {execution-timeout: soon}\n"
        "  authentication: true\n"
        "  ca-dri: /x\n"
    )
    (tmp_path / "etc/grid-security").mkdir(parents=True)
    reported = problems(tmp_path, text)
    grid = tmp_path / "etc/grid-security"
    assert reported == [
        (
            f"cloudkeeper.yml: [cloudkeeper.backend] certificate: file {grid}/backendcert.pem "
            "does not exist"
        ),
        (
            "cloudkeeper.yml: [cloudkeeper.nginx] ip-address: 127.0.0.1: no other host reaches "
            "it; write the address of this host"
        ),
        f"cloudkeeper.yml: [cloudkeeper] certificate: file {grid}/hostcert.pem does not exist",
        f"cloudkeeper.yml: [cloudkeeper] key: file {grid}/hostkey.pem does not exist",
        "cloudkeeper.yml:2: [cloudkeeper] image-lists-file: file /nowhere does not exist",
        (
            "cloudkeeper.yml:3: [cloudkeeper] formats: 'vhd' is not allowed; write one or more "
            "of raw, ova, qcow2, vmdk, iso, vdi"
        ),
        (
            "cloudkeeper.yml:5: [cloudkeeper.backend] endpoint: 'localhost' is not allowed; "
            "write unix:///PATH, HOST:PORT or direct"
        ),
        (
            "cloudkeeper.yml:7: [cloudkeeper.logging] level: 'LOUD' is not allowed; write "
            "DEBUG or INFO or WARN or ERROR or FATAL or UNKNOWN"
        ),
        (
            "cloudkeeper.yml:8: [cloudkeeper] verify-image-list: false: lists are always "
            "verified; write true"
        ),
        (
            "cloudkeeper.yml:9: [cloudkeeper.external-tools] execution-timeout: 'soon' is not "
            "allowed; write a whole number from 1 to 2147483648"
        ),
        "cloudkeeper.yml:11: [cloudkeeper] ca-dri: unknown option, ignored; did you mean ca-dir?",
    ]


_REMOTE = f"""\
cloudkeeper:
  image-lists: [{URL}]
  remote-mode: true
  backend: {{endpoint: backend.example.org:50051}}
  nginx:
"""


@pytest.mark.parametrize(
    ("nginx", "place"),
    [
        ("    ip-address: 192.0.2.7\n", ("192.0.2.7", 50505, "http://192.0.2.7:50505")),
        (
            "    ip-address: 192.0.2.7\n    port: 8080\n    proxy: {ip-address: ''}\n",
            ("192.0.2.7", 8080, "http://192.0.2.7:8080"),
        ),
        (
            "    proxy: {ip-address: images.example.org, port: 443, ssl: true}\n",
            ("127.0.0.1", 50505, "https://images.example.org:443"),
        ),
        ("    ip-address: 2001:db8::7\n", ("2001:db8::7", 50505, "http://[2001:db8::7]:50505")),
    ],
)
def test_the_remote_mode(tmp_path: Path, nginx: str, place: tuple[str, int, str]) -> None:
    """The names are those of 1.7.1, which starts nginx for it."""
    found = load(tmp_path, _REMOTE + nginx)
    assert found.remote is not None
    assert (found.remote.address, found.remote.port, found.remote.url) == place


def test_a_remote_mode_without_use_or_with_a_wrong_host(tmp_path: Path) -> None:
    assert load(tmp_path, f"cloudkeeper:\n  image-lists: [{URL}]\n").remote is None
    here = load(tmp_path, f"cloudkeeper:\n  image-lists: [{URL}]\n  remote-mode: true\n")
    assert here.remote is None
    (warning,) = here.warnings
    assert "remote-mode: true: has no effect with a backend on this host" in str(warning)
    alone = load(tmp_path, _REMOTE + "    port: 50505\n")
    assert any("no other host reaches it" in str(one) for one in alone.warnings)
    lines = problems(tmp_path, _REMOTE + "    ip-address: a/b\n")
    assert lines[-1] == (
        "cloudkeeper.yml:6: [cloudkeeper.nginx] ip-address: 'a/b' is not the name or address of a "
        "host"
    )


def test_lists_in_two_places(tmp_path: Path) -> None:
    text = f"cloudkeeper:\n  image-lists-file: {tmp_path}/x\n  image-lists: [{URL}]\n"
    reported = problems(tmp_path, text)
    assert reported == [
        (
            "cloudkeeper.yml:2: [cloudkeeper] image-lists-file: cannot be used together with "
            "image-lists; remove one of them"
        )
    ]


def test_no_yaml(tmp_path: Path) -> None:
    assert problems(tmp_path, "cloudkeeper:\n  a: [1\n  b: 2\n")[0].startswith(
        "cloudkeeper.yml:3: is not YAML: "
    )


def test_the_shipped_files_are_the_defaults(tmp_path: Path) -> None:
    for name in ("cloudkeeper.yml", "image-lists.conf"):
        path = tmp_path / "etc/cloudkeeper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            (ETC / name).read_text().replace(" /", f" {tmp_path}/").replace("//", f"//{tmp_path}")
        )
    shipped = settings.load(parse(), Layout(tmp_path))
    bare = load(
        tmp_path,
        (
            "cloudkeeper: "
            f"{{external-tools: {{binaries: {{qemu-img: {tmp_path}/usr/bin/qemu-img}}}}}}\n"
        ),
    )
    assert shipped == bare
    (problem,) = shipped.list_problems
    assert str(problem) == (
        f"{tmp_path}/etc/cloudkeeper/image-lists.conf: has no image list; write one URL a line, "
        "or a registry into sources.yaml, "
        "or switch the flow off in /etc/fedcloud/appliance.yaml: flows: {images: off}"
    )


_SOCKET = "unix:///run/cloudkeeper/backend.sock"


@pytest.mark.parametrize(
    ("variables", "flags", "expected"),
    [
        (
            {"PORT_50051_TCP_ADDR": "172.17.0.3", "PORT_50051_TCP_PORT": "50051"},
            (),
            "172.17.0.3:50051",
        ),
        ({"PORT_50051_TCP_ADDR": "fd00::3", "PORT_50051_TCP_PORT": "50051"}, (), "[fd00::3]:50051"),
        (
            {"PORT_50051_TCP_ADDR": "b", "PORT_50051_TCP_PORT": "1"},
            ("--backend-endpoint", "other:1"),
            "other:1",
        ),
        ({"PORT_50051_TCP_ADDR": "backend"}, (), "127.0.0.1:50051"),
        ({"PORT_50051_TCP_ADDR": "", "PORT_50051_TCP_PORT": ""}, (), "127.0.0.1:50051"),
        (
            {"ENDPOINT": _SOCKET, "PORT_50051_TCP_ADDR": "backend", "PORT_50051_TCP_PORT": "50051"},
            (),
            _SOCKET,
        ),
        ({"ENDPOINT": "backend.example.org:1"}, (), "backend.example.org:1"),
        ({"ENDPOINT": _SOCKET}, ("--authentication",), "127.0.0.1:50051"),
        ({"ENDPOINT": "[::1]:1"}, ("--authentication",), "[::1]:1"),
    ],
)
def test_a_backend_in_the_environment_wins_over_the_file_and_a_flag_over_both(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    flags: tuple[str, ...],
    expected: str,
) -> None:
    """R35: the variables of ``docker run --link`` and of the compose file."""
    for name in ("cert.pem", "key.pem", "backendcert.pem"):
        path = tmp_path / "etc/grid-security" / f"host{name}".replace("hostbackend", "backend")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, text in variables.items():
        prefix = "CLOUDKEEPER_BACKEND" if name == "ENDPOINT" else "BACKEND"
        monkeypatch.setenv(f"{prefix}_{name}", text)
    text = "cloudkeeper:\n  image-lists: []\n  backend:\n    endpoint: 127.0.0.1:50051\n"
    assert load(tmp_path, text, *flags).endpoint == expected


def test_warnings_about_tls(tmp_path: Path) -> None:
    """F-H4: warn about a port without TLS, and about TLS on a socket, which has no effect."""
    start = "cloudkeeper:\n  image-lists: []\n"
    (warning,) = load(tmp_path, f"{start}  backend:\n    endpoint: 127.0.0.1:50051\n").warnings
    assert str(warning).endswith(
        "cloudkeeper.yml:4: [cloudkeeper.backend] endpoint: 127.0.0.1:50051 is used "
        "without TLS, so any host "
        "could answer in its place; set authentication: true"
    )
    for endpoint in (_SOCKET, "unix:/run/other.sock"):
        found = load(
            tmp_path, f"{start}  authentication: true\n  backend: {{endpoint: '{endpoint}'}}\n"
        )
        assert (found.endpoint, found.certificates) == (endpoint, None)
        (warning,) = found.warnings
        assert "has no effect with backend.endpoint" in str(warning)
    for wrong in ("unix:relative", "unix://host/path", "unix:"):
        assert (
            "write unix:///PATH, HOST:PORT or direct"
            in problems(tmp_path, start, "--backend-endpoint", wrong)[0]
        )


def test_limits_of_transfers(tmp_path: Path) -> None:
    """§7.20: none by default; bytes as people write them."""
    found = load(tmp_path, f"cloudkeeper:\n  image-lists: [{URL}]\n")
    assert (found.bandwidth, found.quota, found.per_host) == (None, None, 2)
    text = f"cloudkeeper:\n  image-lists: [{URL}]\n  bandwidth-limit: 50M\n"
    text += "  image-dir-quota: 200G\n  parallel-transfers: 4\n"
    found = load(tmp_path, text)
    assert (found.bandwidth, found.quota, found.per_host) == (50 * 2**20, 200 * 2**30, 4)
    found = load(tmp_path, text, "--bandwidth-limit", "", "--transfers-per-host", "1")
    assert (found.bandwidth, found.per_host) == (None, 1)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("bandwidth-limit: fast", "'fast' is not allowed; write a number of bytes, with K, M, G"),
        ("bandwidth-limit: 100K", "'100K' is too low; write 512K or more"),
        (
            "bandwidth-limit: 1M\n  parallel-transfers: 4",
            "is too low for parallel-transfers: 4; write 2M or more, or lower parallel-trans",
        ),
        ("image-dir-quota: 10M", "'10M' is too low; write 1G or more"),
        ("transfers-per-host: 0", "'0' is not allowed"),
    ],
)
def test_limits_that_cannot_be(tmp_path: Path, lines: str, words: str) -> None:
    (line,) = problems(tmp_path, f"cloudkeeper:\n  image-lists: [{URL}]\n  {lines}\n")
    assert words in line
    assert line.startswith("cloudkeeper.yml:3: [cloudkeeper] ")


def test_images_that_are_ignored(tmp_path: Path) -> None:
    """Those of all sources, beside those of one; the other options of a source stay."""
    sources = tmp_path / "etc/cloudkeeper/sources.yaml"
    sources.parent.mkdir(parents=True)
    sources.write_text(
        "egi:\n  type: harbor\n  registry_host: registry.example.org\n  project: images\n"
        "  vos: [ops]\n  ignore: ['*:rolling']\n"
    )
    text = f"cloudkeeper:\n  image-lists: [{URL}]\n  ignore-images: ['*windows*', abc]\n"
    found = load(tmp_path, text)
    ((registry,), (one,)) = found.registries, found.lists
    assert registry.selection.ignored == ("*:rolling", "*windows*", "abc")
    assert one.selection.ignored == ("*windows*", "abc")
    assert one.url == URL
