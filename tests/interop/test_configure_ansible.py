"""The Ansible role, run by ansible-playbook itself: a second run changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
ANSIBLE = Path(sys.prefix).parent / "ansible/bin/ansible-playbook"
PASSWORD = "correct-horse-9"
PLAIN = {"accounting": {"name": "accounting", "password": PASSWORD}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(TOP / "etc", tmp_path / "etc")
    (tmp_path / "etc/caso/caso.conf.d").mkdir()
    for name in ("hostcert.pem", "hostkey.pem"):
        (tmp_path / name).write_text(name)
    return tmp_path


def play(root: Path, *flags: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run the role on this host, whose site is below a directory."""
    secret = root / "etc/caso/caso.conf.d/password"
    answers: dict[str, Any] = {
        "profile": "egi",
        "flows": ["accounting"],
        "site": "SITE-1",
        "keystone": "https://keystone.cloud.test:5000/v3",
        "vos": {"vo.one.test": "4c9e1f"},
        "accounts": {"accounting": {"name": "accounting", "password_file": str(secret)}},
        "certificate": str(root / "hostcert.pem"),
        "key": str(root / "hostkey.pem"),
    }
    variables = {
        "fedcloud_answers": answers | more,
        "fedcloud_secrets": {str(secret): PASSWORD},
        "ansible_python_interpreter": str(ANSIBLE.with_name("python")),
        "fedcloud_command": [str(Path(sys.prefix) / "bin/appliance")],
    }
    book = root / "site.yml"
    tasks = {"hosts": "localhost", "gather_facts": False, "roles": ["fedcloud"]}
    book.write_text(yaml.safe_dump([tasks | {"vars": variables}]))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "LANG": "C.UTF-8",
        "ANSIBLE_ROLES_PATH": str(TOP / "deploy/ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_HOME": str(root / "ansible"),
        "FEDCLOUD_ROOT": str(root),
    }
    command = [str(ANSIBLE), "-i", "localhost,", "-c", "local", *flags, str(book)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def changed(done: subprocess.CompletedProcess[str]) -> int:
    """Return the number of changed tasks in Ansible's own summary."""
    found = re.search(r"ok=\d+ +changed=(\d+) +unreachable=0 +failed=0", done.stdout)
    assert found, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return int(found[1])


def test_a_second_run_changes_nothing(root: Path) -> None:
    assert changed(play(root)) == 2
    conf = (root / "etc/caso/caso.conf").read_text()
    assert f"\npassword_file = {root}/etc/caso/caso.conf.d/password\n" in conf
    secret = root / "etc/caso/caso.conf.d/password"
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == (f"{PASSWORD}\n", 0o640)
    assert json.loads((root / "etc/voms.json").read_text()) == {
        "vo.one.test": {"projects": ["4c9e1f"]}
    }
    before = {path: path.stat().st_mtime_ns for path in (root / "etc").rglob("*")}
    assert changed(play(root)) == 0
    assert {path: path.stat().st_mtime_ns for path in (root / "etc").rglob("*")} == before


@pytest.mark.matrix
def test_a_check_of_ansible_changes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (root / "etc").rglob("*")}
    # The secret's file, which would be made, is missing for `appliance`, so there is none.
    assert changed(play(root, "--check", accounts=PLAIN)) == 2
    assert {path: path.stat().st_mtime_ns for path in (root / "etc").rglob("*")} == before


@pytest.mark.matrix
def test_a_bad_answer_fails_with_its_line(root: Path) -> None:
    done = play(root, site="MY SITE")
    assert done.returncode == 2
    assert re.search(r"/dev/stdin:\d+: site: 'MY SITE': write it as in SITE-1", done.stdout)
