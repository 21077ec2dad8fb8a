"""The playbook of `appliance vo plan`, run by ansible-playbook with the modules of openstack.cloud.

The cloud is simulated behind its real protocol; openstacksdk asks it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators import administered
from tests.simulators.administered import OTHER
from tests.unit import checked_site
from tests.unit.checked_site import CASO, VOS
from tests.unit.test_vo_plan import VO, VoSite, planned, simulated

pytestmark = [pytest.mark.root, pytest.mark.matrix]

ANSIBLE = Path(sys.prefix).parent / "ansible-openstack/bin/ansible-playbook"


@pytest.fixture
def site(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VoSite]:
    pki = tmp_path_factory.mktemp("authority")
    shipped = checked_site.ship(tmp_path_factory.mktemp("site"), pki=pki)
    with simulated(shipped, tmp_path, monkeypatch) as made:
        yield made


def play(site: VoSite, text: str, expect: int = 0) -> str:
    """Run a playbook as its page says; return what Ansible prints."""
    book = site.clouds.with_name("vo.yml")
    book.write_text(text)
    environment = {
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "HOME": str(book.parent),
        "LANG": "C.UTF-8",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_HOME": str(book.parent / "ansible"),
        "ANSIBLE_PYTHON_INTERPRETER": str(ANSIBLE.with_name("python")),
        "OS_CLIENT_CONFIG_FILE": str(site.clouds),
        "OS_CLOUD": "site",
        "FEDCLOUD_ROOT": str(site.site.root),
    }
    command = [str(ANSIBLE), "-i", "localhost,", "-c", "local", str(book)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "geheim" not in done.stdout + done.stderr
    return done.stdout


def changed(shown: str) -> int:
    """Return the number of changed tasks in Ansible's own summary."""
    found = re.search(r"ok=\d+ +changed=(\d+) +unreachable=0 +failed=0", shown)
    assert found, shown
    return int(found[1])


def test_a_playbook_does_what_the_plan_says(site: VoSite) -> None:
    """Once; a second run finds nothing to change, and neither does a second plan."""
    book = planned(site, "--format", "ansible", "--cores", "64")
    assert site.state.changes == []
    assert changed(play(site, book)) > 0
    state, roles = site.state, administered.ROLES
    (project,) = state.projects.values()
    (group,) = state.groups.values()
    assert (project["name"], project["egi.VO"], project["domain_id"]) == (VO, VO, "default")
    assert (group["name"], group["domain_id"]) == (VO, "default")
    assert state.quotas[project["id"]]["cores"] == 64
    assert state.grants == {
        (project["id"], group["id"], roles["member"]),
        (project["id"], "u-a", roles["reader"]),
        (project["id"], "u-i", roles["reader"]),
        (project["id"], "u-k", roles["member"]),
    }
    assert state.rules[0] == OTHER
    assert state.rules[1]["local"][0]["group"] == {"name": VO, "domain": {"name": "Default"}}
    root = site.site.root
    assert f"projects = project, {project['id']}\n" in (root / CASO).read_text()
    assert json.loads((root / VOS).read_text())[VO] == {"projects": [project["id"]]}
    assert changed(play(site, book)) == 0
    assert "Nothing is left to change." in planned(site, "--cores", "64")


def test_a_playbook_refuses_a_mapping_that_changed_meanwhile(site: VoSite) -> None:
    book = planned(site, "--format", "ansible")
    site.state.rules.append(OTHER)
    shown = play(site, book, expect=2)
    assert "has changed since the plan; make a new one" in shown
    assert site.state.rules == [OTHER, OTHER]
    assert not any(one.startswith("PATCH") for one in site.state.changes)
