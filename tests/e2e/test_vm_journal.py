"""Logs in systemd's journal by one setting, on a machine that boots with containers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.vm_site import Appliance

pytestmark = [
    pytest.mark.container,
    pytest.mark.vm,
    pytest.mark.cloud,
    pytest.mark.broker,
    pytest.mark.matrix,
    pytest.mark.timeout(900),
]
_SETTINGS = "/etc/fedcloud/appliance.yaml"


def entries(appliance: Appliance, match: str) -> list[dict[str, Any]]:
    """Return the entries of the journal that match, as journalctl prints them."""
    shown = appliance.machine.run("journalctl", "-o", "json", "--no-pager", match).stdout
    return [json.loads(line) for line in shown.splitlines()]


def test_a_job_and_the_services_log_to_the_journal(appliance: Appliance) -> None:
    machine, shipped = appliance.machine, appliance.path(_SETTINGS).read_text()
    log = appliance.path("/var/log/caso.log")
    before = log.read_text() if log.exists() else ""
    changed = shipped.replace("\nlogs: files\n", "\nlogs: journal\n")
    assert changed != shipped
    appliance.write(_SETTINGS, changed, mode=0o644)
    try:
        machine.run("systemctl", "start", "fedcloud-job@caso")
        found = entries(appliance, "FEDCLOUD_JOB=caso")
        by_program = {one["SYSLOG_IDENTIFIER"] for one in found}
        assert by_program == {"appliance", "caso-extract"}
        logged = [one for one in found if one.get("LOGGER", "").startswith("caso")]
        assert logged, found
        assert {one["PRIORITY"] for one in logged} <= {"3", "4", "6", "7"}
        assert not [one for one in logged if one["MESSAGE"].startswith("{")]
        assert (log.read_text() if log.exists() else "") == before
        assert machine.run("appliance", "logs", "caso").stdout
        machine.run("systemctl", "restart", "bdii")
        identifier = machine.shell(
            "docker ps -q --filter label=com.docker.compose.service=cloudbdii"
        ).stdout.strip()
        form = "{{.HostConfig.LogConfig.Type}} {{.Config.Env}}"
        shown = machine.run("docker", "inspect", "--format", form, identifier).stdout
        assert shown.startswith("journald ")
        assert "FEDCLOUD_LOG_JSON=1" in shown
        # A healthy start has no line at the shipped level; a bad line of a plugin would be one.
        machine.shell(f"docker exec {identifier} sh -c 'echo of the service >/proc/1/fd/2'")
        lines = [one["MESSAGE"] for one in entries(appliance, f"CONTAINER_ID={identifier}")]
        assert "of the service" in lines
        assert "of the service" in machine.run("appliance", "logs", "cloudbdii").stdout
    finally:
        appliance.write(_SETTINGS, shipped, mode=0o644)
        machine.run("systemctl", "restart", "bdii")
