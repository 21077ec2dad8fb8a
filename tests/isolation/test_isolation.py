"""Each extra alone: its programs start and load no module of another tool or extra."""

import json
import resource
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

ENVIRONMENTS = Path(sys.prefix).parent
PROGRAMS = {
    "bdii": ["bdii-update"],
    "caso": ["caso-extract", "caso-projects", "caso-mapping-migrate"],
    "cloud-info": ["cloud-info-provider-service"],
    "cloudkeeper": ["cloudkeeper"],
    "cloudkeeper-os": ["cloudkeeper-os"],
    "ssm": ["ssmsend", "ssmreceive"],
}
FLAGS = {
    "bdii": ["--config"],
    "caso": ["--config-file"],
    "cloud-info": [
        "--os-auth-url=https://k.example.org/v3",
        "--os-username=x",
        "--os-password=geheim",
        "--yaml-file",
    ],
    "cloudkeeper": ["--config"],
    "cloudkeeper-os": ["--config-file"],
    "ssm": ["--config"],
}
"""What comes before the path of a configuration file."""
_OPENSTACK = {"keystoneauth1", "python-novaclient", "python-glanceclient", "python-keystoneclient"}
_STOMP = {"stomp.py", "stomp-py"}
FOREIGN = {
    "admin": _OPENSTACK | _STOMP | {"grpcio", "oslo.config"},
    "bdii": _OPENSTACK | _STOMP | {"cryptography", "pyyaml", "grpcio"},
    "caso": _STOMP | {"asn1crypto", "ldap3", "grpcio"},  # pyOpenSSL is glanceclient's own
    "cloud-info": _STOMP | {"asn1crypto", "ldap3", "grpcio"},
    "cloudkeeper": _OPENSTACK | _STOMP | {"oslo.config", "ldap3"},
    "cloudkeeper-os": _STOMP | {"python-novaclient", "ldap3"},
    "ssm": _OPENSTACK | {"ldap3", "grpcio"},
}
"""Distributions that an extra must not bring."""
CASES = [(extra, program) for extra, programs in PROGRAMS.items() for program in programs]
WITH_VERBS = [("admin", "appliance"), ("caso", "caso"), ("ssm", "ssmctl")]
"""Commands of commands, which have no configuration of their own."""
TOOLS = {"bdii", "caso", "cloud_info_provider", "cloudkeeper", "ssm"}
CLIENTS = {
    *("keystoneauth1", "novaclient", "keystoneclient", "glanceclient"),
    *("stomp", "OpenSSL", "cryptography", "docker", "ldap3", "grpc", "requests"),
}


def run(extra: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ENVIRONMENTS / f"only-{extra}" / "bin" / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(("extra", "program"), CASES + WITH_VERBS)
def test_help_and_version_answer(extra: str, program: str) -> None:
    shown = run(extra, program, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"usage: {program}")
    version = run(extra, program, "--version")
    assert version.stdout == f"{program} {metadata.version('egi-fedcloud-appliance')}\n"


@pytest.mark.parametrize(("extra", "program"), CASES)
def test_a_missing_configuration_is_one_line(extra: str, program: str, tmp_path: Path) -> None:
    shown = run(
        extra,
        program,
        "--root",
        str(tmp_path),
        *FLAGS[extra],
        str(tmp_path / "none"),
        "--check-config",
    )
    assert shown.returncode == 2
    assert (
        shown.stderr == f"{program}: {tmp_path}/none: cannot be read: no such file or directory\n"
    )


@pytest.mark.parametrize(("extra", "program"), CASES + WITH_VERBS)
def test_starting_loads_nothing_of_other_tools_and_no_client(extra: str, program: str) -> None:
    entry = next(
        point for point in metadata.entry_points(group="console_scripts") if point.name == program
    )
    script = (
        "import sys, json, importlib\n"
        f"module = importlib.import_module({entry.module!r})\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    python = ENVIRONMENTS / f"only-{extra}" / "bin" / "python"
    shown = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(shown.stdout))
    assert not loaded & (TOOLS - {entry.module.partition(".")[0]})
    assert not loaded & CLIENTS


@pytest.mark.parametrize(("extra", "program"), CASES + WITH_VERBS)
def test_starting_is_quick(extra: str, program: str) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(extra, program, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # The figure itself comes from scripts/bench; this only catches a client library imported at
    # start (≥ 0.5 s). Of the processor, because a wall clock measures what else the machine does.
    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("extra", FOREIGN)
def test_the_environment_holds_no_other_extra(extra: str) -> None:
    python = ENVIRONMENTS / f"only-{extra}" / "bin" / "python"
    script = (
        "from importlib.metadata import distributions; "
        "print(*{d.name.lower() for d in distributions()})"
    )
    names = set(
        subprocess.run(
            [str(python), "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not names & FOREIGN[extra]
    assert "pytest" not in names


SHIPPED = {
    "bdii-update": ["--config", "bdii/bdii.conf"],
    "caso-extract": ["--config-file", "caso/caso.conf"],
    "cloud-info-provider-service": [
        *(
            "--rc-file",
            "cloud-info-provider/openstack.rc",
            "--yaml-file",
            "cloud-info-provider/openstack.yaml",
        )
    ],
    "cloudkeeper": ["--config", "cloudkeeper/cloudkeeper.yml"],
    "cloudkeeper-os": ["--config-file", "cloudkeeper/cloudkeeper-os.conf"],
    "ssmreceive": ["--config", "apel/receiver.cfg"],
    "ssmsend": ["--config", "apel/sender.cfg"],
}
"""Flags that name files below ``etc``."""


@pytest.mark.parametrize(("extra", "program"), [case for case in CASES if case[1] in SHIPPED])
def test_the_shipped_file_is_good_or_says_what_to_fill_in(extra: str, program: str) -> None:
    """R13."""
    etc = Path(__file__).parents[2] / "etc"
    flags = [flag if flag.startswith("--") else str(etc / flag) for flag in SHIPPED[program]]
    # pytest's own are too long for the address of slapd's socket
    with tempfile.TemporaryDirectory() as root:
        shown = run(extra, program, "--root", root, *flags, "--check-config")
    assert shown.returncode == (0 if program == "bdii-update" else 2), shown.stderr
    assert "Traceback" not in shown.stderr
    assert "unknown option" not in shown.stderr
    if shown.returncode:
        assert all(line.startswith(f"{program}: ") for line in shown.stderr.splitlines())
        assert str(etc) in shown.stderr


def test_direct_mode_needs_the_extra_of_the_backend(tmp_path: Path) -> None:
    """The extra cloudkeeper has no OpenStack client, and says so in one line."""
    config = tmp_path / "cloudkeeper.yml"
    config.write_text(
        "cloudkeeper:\n"
        f"  ca-dir: {tmp_path}\n"
        "  image-lists: [https://lists.example.org/image.list]\n"
        "  backend: {endpoint: direct}\n"
    )
    for verb in ("sync", "plan", "status"):
        shown = run(
            "cloudkeeper", "cloudkeeper", verb, "--root", str(tmp_path), "--config", str(config)
        )
        assert shown.returncode == 2, shown.stderr
        assert shown.stderr == (
            f"cloudkeeper: {config}:4: [cloudkeeper.backend] endpoint: direct: cloudkeeper-os is "
            "not installed here (there is no oslo_config); install the extras cloudkeeper and "
            "cloudkeeper-os into one environment, or name the endpoint of a running backend\n"
        )


def test_the_frontend_s_own_modules_load_no_openstack_client() -> None:
    """Only the entry point imports the backend, and only in direct mode."""
    script = (
        "import sys, pkgutil, importlib, cloudkeeper.frontend as package\n"
        "from cloudkeeper.cmds import frontend\n"
        "for each in pkgutil.walk_packages(package.__path__, 'cloudkeeper.frontend.'):\n"
        "    importlib.import_module(each.name)\n"
        "print(*{name.split('.')[0] for name in sys.modules})\n"
        "print(*(name for name in sys.modules if name.startswith('cloudkeeper.backend')))"
    )
    python = ENVIRONMENTS / "only-cloudkeeper" / "bin" / "python"
    shown = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
    loaded, backend = shown.stdout.split("\n", 1)
    assert not set(loaded.split()) & {"keystoneauth1", "keystoneclient", "glanceclient"}
    assert backend.strip() == ""
