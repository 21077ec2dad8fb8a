"""Each extra alone: its programs start, answer, and load no module of another tool and no library of another extra."""

import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

ENVIRONMENTS = Path(sys.prefix).parent
PROGRAMS = {
    "bdii": ["bdii-update"],
    "caso": ["caso-extract", "caso-projects", "caso-mapping-migrate"],
    "cloud-info": ["cloud-info-provider-service"],
    "ssm": ["ssmsend", "ssmreceive"],
}
FLAGS = {
    "bdii": ["--config"],
    "caso": ["--config-file"],
    "cloud-info": ["--os-auth-url=https://k.example.org/v3", "--os-username=x", "--os-password=geheim", "--yaml-file"],
    "ssm": ["--config"],
}
"""What comes before the path of a configuration file."""
FOREIGN = {
    "bdii": {"keystoneauth1", "stomp-py", "cryptography", "pyyaml"},
    "caso": {"stomp.py", "stomp-py", "asn1crypto", "ldap3"},  # pyOpenSSL is glanceclient's own
    "cloud-info": {"stomp.py", "stomp-py", "asn1crypto", "ldap3"},
    "ssm": {"keystoneauth1", "python-novaclient", "ldap3"},
}
"""Distributions that an extra must not bring."""
CASES = [(extra, program) for extra, programs in PROGRAMS.items() for program in programs]
TOOLS = {"bdii", "caso", "cloud_info_provider", "ssm"}
CLIENTS = {
    *("keystoneauth1", "novaclient", "keystoneclient", "glanceclient"),
    *("stomp", "OpenSSL", "cryptography", "ldap3"),
}


def run(extra: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ENVIRONMENTS / f"only-{extra}" / "bin" / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(("extra", "program"), CASES)
def test_help_and_version_answer(extra: str, program: str) -> None:
    shown = run(extra, program, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"usage: {program}")
    version = run(extra, program, "--version")
    assert version.stdout == f"{program} {metadata.version('egi-fedcloud-appliance')}\n"


@pytest.mark.parametrize(("extra", "program"), CASES)
def test_a_missing_configuration_is_one_line(extra: str, program: str, tmp_path: Path) -> None:
    shown = run(extra, program, "--root", str(tmp_path), *FLAGS[extra], str(tmp_path / "none"), "--check-config")
    assert shown.returncode == 2
    assert shown.stderr == f"{program}: {tmp_path}/none: cannot be read: no such file or directory\n"


@pytest.mark.parametrize(("extra", "program"), CASES)
def test_starting_loads_nothing_of_other_tools_and_no_client(extra: str, program: str) -> None:
    entry = next(point for point in metadata.entry_points(group="console_scripts") if point.name == program)
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


@pytest.mark.parametrize(("extra", "program"), CASES)
def test_starting_is_quick(extra: str, program: str) -> None:
    def seconds() -> float:
        begin = time.perf_counter()
        run(extra, program, "--help")
        return time.perf_counter() - begin

    # The figure itself comes from scripts/bench; this only catches a client library imported at start (≥ 0.5 s).
    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("extra", PROGRAMS)
def test_the_environment_holds_no_other_extra(extra: str) -> None:
    python = ENVIRONMENTS / f"only-{extra}" / "bin" / "python"
    script = "from importlib.metadata import distributions; print(*{d.name.lower() for d in distributions()})"
    names = set(subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True).stdout.split())
    assert not names & FOREIGN[extra]
    assert "pytest" not in names
