"""Applying a plan: the cloud first, the site's tables next, the mapping last.

Users can enter only when everything else is there. Each step can be the last of a run: what is done
already is no step of the next plan, and the same plan can be applied again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from appliance.admin.migrate import apply as changes
from appliance.admin.migrate.apply import Keeper
from appliance.admin.settings import Host
from appliance.admin.vo import mapping, tables
from appliance.admin.vo.cloud import IDENTITY, Requests, checked
from appliance.admin.vo.mapping import FederationMapping
from appliance.admin.vo.plan import CloudStep, ReviewedPlan, VoPlan, filled
from appliance.admin.vo.state import FEDERATION
from appliance.core import files
from appliance.core.run.errors import Unavailable
from appliance.core.run.layout import Layout

_KEPT = "mapping-before.json"


def refuse_other(fresh: VoPlan, reviewed: ReviewedPlan) -> None:
    """Check that what would be done now is what was reviewed, or a part of it.

    Raises:
        Unavailable: The cloud is another one, or has changed since the plan.

    """
    again = f"appliance vo plan {fresh.wish.vo}"
    if fresh.keystone != reviewed.keystone:
        cause = f"is for {reviewed.keystone}, and this login is for {fresh.keystone}"
        raise Unavailable("the plan", cause, again)
    if fresh.before.digest not in (reviewed.before, reviewed.after):
        cause = "has changed since the plan was made"
        raise Unavailable(f"mapping {fresh.before.id}", cause, again)
    if fresh.rule is not None and fresh.rule != reviewed.rule:
        raise Unavailable("the plan", "has another rule than the mapping needs now", again)
    others = [step.command for step in fresh.steps if step.command not in reviewed.commands]
    if others:
        cause = f"does not have what the cloud needs now: {others[0]}"
        raise Unavailable("the plan", cause, again)


class Applier:
    """Applies a plan, and knows how to take back what it has done."""

    def __init__(self, cloud: Requests, plan: VoPlan, layout: Layout) -> None:
        self._cloud, self._plan, self._layout = cloud, plan, layout
        self._ids = {"project": plan.project, "group": plan.group}
        self.undo: list[str] = []
        """Commands that take the steps back, the last step's first."""
        self._keeper: Keeper | None = None

    def run(self, host: Host) -> Iterator[str]:
        """Yield a line for each step that is done."""
        for step in self._plan.steps:
            self._step(step)
            yield f"done: {filled(step.command, self._ids)}"
        writes = tables.writes(self._plan.wish.vo, self._ids["project"], host, self._layout)
        for write in writes:
            self._keep().keep(write.name)
            changes.write_file(write, self._layout)
            yield f"{self._layout.path(write.name)}: written"
        if writes:
            self.undo.insert(0, str(self._keep().undo))
        if self._plan.rule is not None:
            self._change_mapping()
            yield f"done: mapping {self._plan.before.id} lets the VO {self._plan.wish.vo} in"

    def _keep(self) -> Keeper:
        if self._keeper is None:
            self._keeper = Keeper(self._layout, changes.new_directory(self._layout))
        return self._keeper

    def _step(self, step: CloudStep) -> None:
        path = filled(step.path, self._ids)
        body = None if step.body is None else json.dumps(step.body)
        answer = self._cloud.send(step.service, step.method, path, body)
        found = checked(answer, filled(step.command, self._ids))
        if step.makes:
            self._ids[step.makes] = str(found.json[step.makes]["id"])
        if step.undo:
            self.undo.insert(0, filled(step.undo, self._ids))

    def _change_mapping(self) -> None:
        """Add the rule to the text that Keystone has now, and read it back.

        Raises:
            Unavailable: The mapping has changed meanwhile.

        """
        before = self._plan.before
        now = read_mapping(self._cloud, before.id)
        if now.digest != before.digest:
            remedy = f"appliance vo plan {self._plan.wish.vo}"
            raise Unavailable(f"mapping {before.id}", "has changed meanwhile", remedy)
        assert self._plan.rule is not None  # noqa: S101  the caller has looked
        kept = self._kept(now)
        write_mapping(self._cloud, now, mapping.added(now.text, self._plan.rule))
        self.undo.insert(0, shlex.join(("openstack", "mapping", "set", "--rules", kept, now.id)))

    def _kept(self, now: FederationMapping) -> str:
        path = self._keep().directory / _KEPT
        return keep_mapping(path, now)


def keep_mapping(path: Path, now: FederationMapping) -> str:
    """Keep the rules before a change, durably, and return the file's path."""
    files.make_directory(path.parent, mode=0o700)
    files.write_atomic(path, now.text.encode(), mode=0o600)
    return str(path)


def read_mapping(cloud: Requests, identifier: str) -> FederationMapping:
    """Return a mapping as Keystone has it now."""
    path = _path(identifier)
    answer = checked(cloud.send(IDENTITY, "GET", path), f"GET {path}")
    return mapping.read(answer.text, identifier)


def write_mapping(cloud: Requests, now: FederationMapping, rules: str) -> None:
    """Replace the rules of a mapping, and check that Keystone has them.

    Raises:
        AccessDenied: Keystone refuses them.
        Unavailable: Keystone shows others afterwards.

    """
    version = f', "schema_version": {json.dumps(now.version)}' if now.version else ""
    body = f'{{"mapping": {{"rules": {rules}{version}}}}}'
    path = _path(now.id)
    checked(cloud.send(IDENTITY, "PATCH", path, body), f"PATCH {path}")
    if read_mapping(cloud, now.id).digest != FederationMapping(now.id, rules).digest:
        cause = "Keystone shows other rules than those that were sent"
        raise Unavailable(f"mapping {now.id}", cause, "look at it: openstack mapping show")


def _path(identifier: str) -> str:
    return f"{FEDERATION}/mappings/{quote(identifier, safe='')}"
