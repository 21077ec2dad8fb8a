"""The shell functions that set everything up, with the commands that reach outside replaced."""

import contextlib
import ensurepip
import hashlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
LOCKS = SCRIPTS.parent / "locks"


def uv_version() -> str:
    text = (SCRIPTS / "lib.sh").read_text()
    return str(re.findall(r"^UV_VERSION=(.*)$", text, re.MULTILINE)[0])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    top = tmp_path / "a check out"
    shutil.copytree(SCRIPTS, top / "scripts")
    (top / "pyproject.toml").touch()
    (top / "lock.txt").touch()
    return top


def script(checkout: Path, text: str) -> list[str]:
    return ["bash", "-c", f'. "$0/scripts/lib.sh"\n{text}', str(checkout)]


def run(checkout: Path, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        script(checkout, text), capture_output=True, text=True, check=False, timeout=30
    )


UV = """
ensure_uv() { :; }
uv() { [ "$*" != "$broken" ] && [ "$1 $2" != "$broken" ]; }
"""


@pytest.mark.parametrize("broken", ["venv -q", "pip sync", "pip install"])
def test_an_environment_whose_making_failed_is_not_taken_for_made(
    checkout: Path, broken: str
) -> None:
    text = f"{UV}broken='{broken}'\nenvironment x \"$TOP/lock.txt\" extra\necho reached"
    for _ in range(2):
        shown = run(checkout, text)
        assert shown.returncode != 0
        assert "failed" in shown.stderr
        assert shown.stdout == ""
    without = run(checkout, f"{UV}broken='pip sync'\nenvironment x \"$TOP/lock.txt\"\necho reached")
    assert (without.returncode != 0, without.stdout) == (True, "")
    good = f'{UV}broken=\nmkdir -p "$ENVS/x"\nenvironment x "$TOP/lock.txt" extra'
    assert "Python environment: x" in run(checkout, good).stderr
    assert run(checkout, good).stderr == ""


def test_two_runs_at_once_make_an_environment_once(checkout: Path) -> None:
    text = """
ensure_uv() { :; }
make_environment() {
  until [ "$(ls "$TOP"/begun.* | wc -l)" = 2 ]; do sleep 0.02; done
  sleep 0.2
  mkdir -p "$ENVS/x"
  echo made >>"$TOP/made"
}
touch "$TOP/begun.$$"
environment x "$TOP/lock.txt"
"""
    both = [subprocess.Popen(script(checkout, text), stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [one.wait(timeout=30) for one in both] == [0, 0]
    assert (checkout / "made").read_text() == "made\n"


def test_the_wheel_of_the_isolation_tests_is_that_of_the_checkout(checkout: Path) -> None:
    for name in ("appliance", "caso", "ssm"):
        (checkout / name).mkdir()
    module = checkout / "ssm" / "gone.py"
    module.touch()
    text = """
ensure_uv() { :; }
environment() { :; }
uv() { mkdir -p "$CACHE/wheel"; touch "$CACHE/wheel/x.whl"; echo built >>"$TOP/built"; }
isolated_environments
"""

    def built() -> int:
        assert run(checkout, text).returncode == 0
        return (checkout / "built").read_text().count("built")

    assert [built(), built()] == [1, 1]
    module.unlink()
    assert [built(), built()] == [2, 2]
    module.write_text("new")
    os.utime(module, (time.time() + 1, time.time() + 1))
    assert built() == 3


def test_without_being_root_the_missing_packages_are_told(checkout: Path) -> None:
    query = "dpkg-query() { [ \"$4\" = openssl ] && echo 'ii '; }"
    text = f"id() {{ echo 1000; }}\n{query}\ndebian activemq openssl strace"
    shown = run(checkout, text)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert (
        shown.stderr
        == "error: missing Debian packages; run: sudo apt-get install activemq strace\n"
    )


APT = """
POLICY=$TOP/policy-rc.d
apt-get() { case "$*" in *install*) cp "$POLICY" "$TOP/seen"; %s ;; esac; }
step "Debian packages" debian_install strace
"""
# Only another program can be seen to have begun: a signal to a shell's child before that may pass
# it by.
_SLOW = """sh -c 'touch "$0"; exec sleep 30' "$TOP/installing" """


def test_the_host_s_services_stay_away_while_packages_are_installed_and_only_then(
    checkout: Path,
) -> None:
    assert run(checkout, APT % "true").returncode == 0
    assert (checkout / "seen").read_text().splitlines()[-1] == "exit 101"
    assert not (checkout / "policy-rc.d").exists()
    assert run(checkout, APT % "false").returncode != 0
    assert not (checkout / "policy-rc.d").exists()
    (checkout / "policy-rc.d").write_text("the host's own\n")
    assert run(checkout, APT % "true").returncode == 0
    assert (checkout / "policy-rc.d").read_text() == "the host's own\n"


def test_an_interrupted_installation_leaves_no_policy(checkout: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        (checkout / "installing").unlink(missing_ok=True)
        command = script(checkout, APT % _SLOW)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        while not (checkout / "installing").exists():
            time.sleep(0.01)
        os.killpg(process.pid, number)
        assert process.wait(timeout=10) != 0
        deadline = time.monotonic() + 5  # a shell below it may end a moment later
        while (
            number != signal.SIGKILL
            and (checkout / "policy-rc.d").exists()
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        assert (checkout / "policy-rc.d").exists() == (number == signal.SIGKILL)
    assert run(checkout, APT % "true").returncode == 0  # a later one knows what a killed one left
    assert not (checkout / "policy-rc.d").exists()


def test_a_failing_step_shows_what_it_said_and_its_status(checkout: Path) -> None:
    shown = run(checkout, "step label bash -c 'echo said; exit 7'\necho reached")
    assert (shown.returncode, shown.stdout) == (7, "")
    assert shown.stderr.split() == ["label", "failed", "(7)", "said"]


def test_a_step_shows_on_a_terminal_that_it_is_at_work(checkout: Path) -> None:
    """Its seconds are renewed, and nothing that renews them outlives the step."""
    terminal, side = pty.openpty()
    words = script(checkout, "step label sleep 2.2\njobs -r")
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=side, stderr=side, check=True)
    os.close(side)
    shown = os.read(terminal, 10000).decode()
    os.close(terminal)
    assert done.returncode == 0
    lines = [line.split() for line in shown.replace("\r\n", "").split("\r")]
    assert lines[0] == ["label"]
    shown_seconds = [int(line[1]) for line in lines[1:] if line[2:] == ["s"]]
    assert shown_seconds[0] >= 1, lines  # later than after a second on a loaded machine
    assert shown_seconds == sorted(shown_seconds)
    assert {"Running"} & set(shown.split()) == set()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["bench"], 2, "usage: scripts/bench NAME"),
        (["bench", "none"], 2, "usage: scripts/bench NAME"),
        (["test", "--help"], 0, "scripts/test --full"),
        (["build", "--help"], 0, "scripts/build --unsigned"),
        (["build"], 2, "scripts/build --key FILE"),
        (["demo", "--help"], 0, "usage: scripts/demo"),
        (["demo", "--nonsense"], 2, "--nonsense"),
        (["demo", "--state"], 2, "--state"),
    ],
)
def test_nothing_is_set_up_before_the_command_line_is_understood(
    tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    top = tmp_path / "a check out"
    shutil.copytree(SCRIPTS, top / "scripts")
    shutil.copytree(SCRIPTS.parent / "tests" / "demo", top / "tests" / "demo")
    command = [str(top / "scripts" / arguments[0]), *arguments[1:]]
    shown = subprocess.run(
        command, cwd="/", capture_output=True, text=True, check=False, timeout=30
    )
    assert shown.returncode == status
    assert said in shown.stdout + shown.stderr
    assert "*" not in shown.stdout + shown.stderr
    assert list((top / ".cache").rglob("*")) == [top / ".cache/env"]


# An environment with the pip that it would get, without the seconds in which that is installed.
PYTHON_WITH_PIP = """
python3() {
  command python3 -m venv --without-pip "$3"
  printf '#!/bin/sh\\nPYTHONPATH="%s" exec "%s/bin/python" -m pip "$@"\\n' "$pip" "$3" >"$3/bin/pip"
  chmod +x "$3/bin/pip"
}
"""


def unpacked_pip() -> Path:
    """Unpack the pip that comes with Python, once for each checkout, where its byte code stays.

    It is beside Python or in a directory of the distribution.
    """
    places = (sysconfig.get_config_var("WHEEL_PKG_DIR"), Path(ensurepip.__file__).parent)
    wheel = next(found for place in places if place for found in Path(place).rglob("pip-*.whl"))
    unpacked = SCRIPTS.parent / ".cache/tests" / wheel.stem
    if not unpacked.exists():
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=unpacked.parent))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unfinished)
        with contextlib.suppress(OSError):  # another process was faster
            unfinished.rename(unpacked)
        shutil.rmtree(unfinished, ignore_errors=True)
    return unpacked


@pytest.mark.long
def test_the_package_installer_is_installed_by_its_hash(checkout: Path, tmp_path: Path) -> None:
    """F-H16: pip refuses a package of the right name and version whose content is another."""
    index = tmp_path / "index"
    index.mkdir()
    shutil.copytree(LOCKS, checkout / "locks")
    version = uv_version()
    wheel = index / f"uv-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            f"uv-{version}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: uv\nVersion: {version}\n",
        )
        archive.writestr(
            f"uv-{version}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"uv-{version}.dist-info/RECORD", "")
    make = (
        f"export PIP_NO_INDEX=1 PIP_FIND_LINKS='{index}' PIP_NO_CACHE_DIR=1\n"
        f"pip='{unpacked_pip()}'{PYTHON_WITH_PIP}make_uv"
    )
    shown = run(checkout, make)
    assert shown.returncode != 0
    assert "DO NOT MATCH THE HASHES" in shown.stderr
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (checkout / "locks/uv.txt").write_text(f"uv=={version} --hash=sha256:{digest}\n")
    assert run(checkout, make).returncode == 0


def test_every_lock_has_a_hash_for_each_package() -> None:
    """F-H16: that of the package installer has the version that the scripts ask for."""
    for lock in LOCKS.glob("*.txt"):
        text = lock.read_text().replace("\\\n", " ")
        assert all("--hash=sha256:" in line for line in text.splitlines() if line.strip()), lock
    assert (LOCKS / "uv.txt").read_text().split()[0] == f"uv=={uv_version()}"


def pins(lock: str) -> set[str]:
    text = (LOCKS / f"{lock}.txt").read_text()
    return set(re.findall(r"^([^ ]+==[^ ]+)", text, re.MULTILINE))


def test_all_locks_but_that_of_caso_agree() -> None:
    """What ships, what tests it and the cloud that it meets come from one resolution."""
    ours = dict(pin.split("==") for pin in pins("dev"))
    extras = re.findall(r"^EXTRAS=\((.*)\)$", (SCRIPTS / "lib.sh").read_text(), re.MULTILINE)
    for extra in extras[0].split():
        assert pins(extra) <= pins("dev"), extra
    theirs = dict(pin.split("==") for pin in pins("testbed"))
    common = ours.keys() & theirs.keys()
    assert {"requests", "cryptography", "keystoneauth1"} <= common
    assert {name: theirs[name] for name in common} == {name: ours[name] for name in common}


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.stem)
def test_a_lock_names_no_index_and_no_other_system(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "sys_platform" not in text


CI = """
mkdir -p .cache/env/dev/bin
echo 'dev_environment() { :; }' >>scripts/lib.sh
printf '#!/bin/sh\\necho "$(basename "$0") $*" >>begun\\n%s\\n' "$prepare" >scripts/prepare
printf '#!/bin/sh\\necho check >>begun\\nexit %s\\n' "$check" >scripts/check
printf '#!/bin/sh\\necho tests >>begun\\n' >.cache/env/dev/bin/python
chmod +x .cache/env/dev/bin/python
scripts/test
"""


@pytest.mark.parametrize(
    ("prepare", "check", "status", "tested"),
    [
        ("echo of $1", "0", 0, True),
        ("echo of $1; [ $1 != compose ]", "0", 1, False),
        ("echo of $1; [ $1 != container ]", "0", 1, True),
        ("echo of $1", "3", 3, False),
    ],
    ids=["good", "no environment", "no image", "check"],
)
def test_ci_prepares_beside_the_checks_and_tests_only_what_is_prepared(
    checkout: Path, prepare: str, check: str, status: int, *, tested: bool
) -> None:
    environment = {**os.environ, "prepare": prepare, "check": check}
    done = subprocess.run(
        ["bash", "-ec", CI],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == status, done.stderr
    begun = (checkout / "begun").read_text().splitlines()
    assert begun[0] == "prepare packages container-packages"
    assert ("tests" in begun, "check" in begun) == (tested, True)
    for aside in ("prepare container", "prepare compose"):
        assert any(line.startswith(aside) for line in begun)
    # what ran aside is shown in any case
    assert {"of container", "of compose"} <= set(done.stdout.splitlines())
