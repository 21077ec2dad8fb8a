"""``caso.conf``: of cASO 0.3 (appliance of 2016) to 5, carried with the options of today.

| earlier | now |
|---|---|
| ``tenants`` | ``projects`` |
| names of messenger classes; ``ssm`` of cASO 1.4.3, whose records had version 0.2 | ``ssmv4`` |
| ``[extractor] user, password, endpoint, insecure`` | ``[keystone_auth]`` |
| ``[extractor] mapping_file`` | ``[DEFAULT] mapping_file`` |
| a URL of Keystone's version 2 | version 3, domains ``default`` |
"""

from __future__ import annotations

import re

from appliance.admin.migrate import lines, oslo_lines, release
from appliance.admin.migrate.workspace import Workspace
from appliance.core.config.document import Document

NAME = "/etc/caso/caso.conf"
_CLASSES = {
    "caso.messenger.ssm.SSMMessengerV04": "ssmv4",
    "caso.messenger.ssm.SSMMessenger": "ssmv4",
    "caso.messenger.ssm.SSMMessengerV02": "ssmv4",
    "caso.messenger.ssm.SsmMessager": "ssmv4",
    "caso.messenger.logstash.LogstashMessenger": "logstash",
    "caso.messenger.noop.NoopMessenger": "noop",
}
_OF_VERSION_2 = ("caso.messenger.ssm.SSMMessengerV02", "caso.messenger.ssm.SsmMessager")
_ACCOUNT = {"user": "username", "password": "password", "endpoint": "auth_url"}
"""Options of ``[extractor]`` with those of ``[keystone_auth]``."""
_KEYSTONE = "keystone_auth"


def convert(work: Workspace) -> None:
    """Plan the files of cASO's configuration."""
    folder = work.path(f"{NAME}.d")
    for path in sorted(folder.glob("*.conf")) if folder.is_dir() else ():
        work.read(f"{NAME}.d/{path.name}")
    found = work.parse(NAME, oslo_lines.parse)
    if found is None:
        return
    _rename_projects(work, found)
    _name_messengers(work, found)
    _move_account(work, found)
    _to_version_3(work)
    entry = found.get("DEFAULT", "extractor")
    if entry and "ceilometer" in entry.text:
        work.find(NAME, entry.line, "the extractor ceilometer is not supported; write nova")


def _rename_projects(work: Workspace, found: Document) -> None:
    old, new = (found.get("DEFAULT", option) for option in ("tenants", "projects"))
    if old and new:
        work.find(NAME, old.line, f"tenants is ignored: projects is set in line {new.line}")
    elif old:
        work.planned[NAME] = lines.renamed(work.planned[NAME], old.line, "tenants", "projects")


def _name_messengers(work: Workspace, found: Document) -> None:
    entry = found.get("DEFAULT", "messengers") or found.get("DEFAULT", "messenger")
    if entry is None:
        return
    words = [word.strip() for word in entry.text.split(",") if word.strip()]
    is_old = release.has_old_records(work)
    names = [_CLASSES.get(word, "ssmv4" if word == "ssm" and is_old else word) for word in words]
    if names != words:
        value = ", ".join(dict.fromkeys(names))
        text = lines.replaced(work.planned[NAME], entry.line, value, is_continued=True)
        work.planned[NAME] = text
    if any(word in _OF_VERSION_2 for word in words) or (is_old and "ssm" in words):
        work.note(NAME, entry.line, "records had version 0.2 and have version 0.4 from now on")


def _move_account(work: Workspace, found: Document) -> None:
    """Turn the section [extractor] of cASO 0.3 into [keystone_auth]."""
    options = found.sections.get("extractor", {})
    if not any(option in options for option in _ACCOUNT):
        return
    if _KEYSTONE in found.sections:
        line = next(iter(options.values())).line
        work.find(NAME, line, f"[extractor] is ignored: the account is in [{_KEYSTONE}]")
        return
    text = work.planned[NAME]
    for option, name in _ACCOUNT.items():
        if option in options:
            text = lines.renamed(text, options[option].line, option, name)
    mapping = options.get("mapping_file")
    if mapping:
        text = lines.without(text, {mapping.line})
    text = re.sub(r"(?m)^\[extractor\](?=\s*$)", f"[{_KEYSTONE}]", text)
    text = lines.with_option(text, _KEYSTONE, "auth_type", "v3password")
    if mapping and found.get("DEFAULT", "mapping_file") is None:
        text = lines.with_option(text, "DEFAULT", "mapping_file", mapping.text)
    work.planned[NAME] = text


def _to_version_3(work: Workspace) -> None:
    found = work.parse(NAME, oslo_lines.parse)
    entry = found.get(_KEYSTONE, "auth_url") if found else None
    if found is None or entry is None or not lines.is_version_2(entry.text):
        return
    text = lines.with_version_3(work.planned[NAME], entry.line)
    for option in ("user_domain_name", "project_domain_name"):
        if found.get(_KEYSTONE, option) is None:
            text = lines.with_option(text, _KEYSTONE, option, "default")
    work.planned[NAME] = text
    work.note(NAME, entry.line, "Keystone v2.0 became v3: domains were guessed as default")
