"""A plan as text: for a person, for Ansible, or as a patch for a pull request."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.admin.migrate import difference
from appliance.admin.migrate.plan import Write
from appliance.admin.vo.plan import GROUP, NEW_PROJECT, VoPlan, filled
from appliance.admin.vo.state import PROPERTY

FORMATS = ("person", "ansible", "patch")
_WHOLE = 10**6
"""Lines around a change: the whole mapping is to be reviewed."""


def person(plan: VoPlan, writes: Sequence[Write], described: tuple[str, str]) -> Iterator[str]:
    """Yield the plan for a person; ``described`` is the catch-all's file before and after."""
    yield f"VO {plan.wish.vo} at {plan.keystone}"
    for step in plan.steps:
        yield f"+ {named(step.command, plan)}"
    yield from mapping_lines(plan)
    for write in writes:
        before = (write.before or b"").decode()
        yield from difference.shown(write.name, before, write.after.decode())
    yield from difference.shown("the catch-all's file", *described)
    yield from (f"i {note}" for note in plan.notes)
    if plan.is_empty and not writes:
        yield "Nothing is left to change."


def named(text: str, plan: VoPlan) -> str:
    """Return a command with ids, or with names of what is still to be made."""
    ids = {
        "project": plan.project or plan.wish.project,
        "group": plan.group or plan.wish.group,
    }
    return filled(text, ids)


def mapping_lines(plan: VoPlan, *, prefixes: tuple[str, str] = ("", "")) -> Iterator[str]:
    """Yield the whole mapping as a difference; nothing if it stays."""
    if plan.rule is None:
        return
    before, after = (
        json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines()
        for text in (plan.before.text, plan.after)
    )
    name = f"mapping {plan.before.id}"
    heads = (f"{name} (now)", f"{name} (then)")
    if any(prefixes):
        heads = (f"{prefixes[0]}{plan.before.id}.json", f"{prefixes[1]}{plan.before.id}.json")
    yield from difflib.unified_diff(before, after, *heads, n=_WHOLE, lineterm="")


def patch(plan: VoPlan, writes: Sequence[Write], described: tuple[str, str], site: str) -> str:
    """Return the plan as a patch: the mapping, the site's tables, and the catch-all's file."""
    parts = [*mapping_lines(plan, prefixes=("a/mappings/", "b/mappings/"))]
    for write in writes:
        before = (write.before or b"").decode()
        parts += _relabelled(difference.shown(write.name, before, write.after.decode()), write.name)
    name = f"/sites/{site}.yaml"
    parts += _relabelled(difference.shown(name, *described), name)
    return "".join(f"{line}\n" for line in parts)


def _relabelled(lines: Sequence[str], name: str) -> list[str]:
    """Return a difference whose first lines name its file as git does."""
    return [f"--- a{name}", f"+++ b{name}", *lines[2:]] if lines else []


def ansible(plan: VoPlan, described: str, directory: Path) -> str:
    """Return a playbook with the modules of openstack.cloud; the catch-all's file is imported.

    ``directory`` gets that file on the host.
    """
    import yaml  # noqa: PLC0415  start-up is a cost

    tasks = [*_tasks(plan), *_mapping_tasks(plan), *_host_tasks(plan, described, directory)]
    play = {
        "name": f"VO {plan.wish.vo}",
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": tasks,
    }
    shown: str = yaml.safe_dump([play], sort_keys=False, explicit_start=True, width=100)
    return shown


def _tasks(plan: VoPlan) -> Iterator[dict[str, Any]]:
    """Yield the tasks for project, quotas, group and roles; they change only what differs.

    The modules find a thing by its id or its name; only a project's takes a domain by name.
    """
    wish = plan.wish
    project = plan.project or wish.project
    described = {"name": project, "domain": plan.domain, "extra_specs": {PROPERTY: wish.vo}}
    project_task = {"state": "present", **described}
    yield {"name": "project", "openstack.cloud.project": project_task, "register": "made"}
    made = "{{ made.project.id }}"
    if wish.quotas:
        limits: Mapping[str, object] = {"name": made, **wish.quotas}
        yield {"name": "quota", "openstack.cloud.quota": dict(limits)}
    if not plan.group:
        group = {"state": "present", "name": wish.group, "domain_id": plan.domain}
        yield {"name": "group", "openstack.cloud.identity_group": group}
    for step in plan.steps:
        words = shlex.split(step.command)
        if words[:3] == ["openstack", "role", "add"]:
            kind, who, role = words[3].lstrip("-"), words[4], words[-1]
            grant = {kind: who, "project": made, "role": role}
            if who == GROUP:
                known = plan.group or wish.group
                grant = {kind: known, "group_domain": plan.domain, "project": made, "role": role}
            yield {"name": f"role {role}", "openstack.cloud.role_assignment": grant}


def _mapping_tasks(plan: VoPlan) -> Iterator[dict[str, Any]]:
    """Yield the tasks that write the mapping, unless it is neither that of before nor the new one.

    The module replaces all rules, also those that another administrator has added since.
    """
    if plan.rule is None:
        return
    name = plan.before.id
    known = [json.loads(plan.before.text), json.loads(plan.after)]
    asked = {"name": name}
    yield {
        "name": "mapping now",
        "openstack.cloud.federation_mapping_info": asked,
        "register": "now",
    }
    yield {
        "name": "nobody has changed the mapping since the plan",
        "vars": {"known": known},
        "ansible.builtin.assert": {
            "that": ["now.mappings | map(attribute='rules') | first in known"],
            "fail_msg": f"the mapping {name} has changed since the plan; make a new one",
        },
    }
    rules = {"state": "present", "name": name, "rules": json.loads(plan.after)}
    yield {"name": "mapping", "openstack.cloud.federation_mapping": rules}


def _host_tasks(plan: VoPlan, described: str, directory: Path) -> Iterator[dict[str, Any]]:
    path = str(directory / f"{plan.wish.vo}.yaml")
    content = described.replace(NEW_PROJECT, "'{{ made.project.id }}'")
    copied = {"dest": path, "content": content, "mode": "0644"}
    yield {"name": "site's file", "ansible.builtin.copy": copied}
    command = f"appliance import-site-yaml {path} --apply"
    yield {
        "name": "tables of the host",
        "ansible.builtin.command": command,
        "register": "tables",
        "changed_when": "'Nothing is left to change.' not in tables.stdout",
    }
