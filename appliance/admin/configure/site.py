"""The options that each answer goes to, and their present values."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.admin.configure import edit
from appliance.admin.configure.answers import KEEP, Answers, CloudAccount
from appliance.admin.inventory import Flow
from appliance.admin.mounts import site_files
from appliance.admin.run import hostkey
from appliance.admin.settings import PROFILES, Host
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

CASO = "/etc/caso/caso.conf"
RC = "/etc/cloud-info-provider/openstack.rc"
CLOUD = "/etc/cloud-info-provider/openstack.yaml"
SITE = "/etc/sitebdii/site.cfg"
SITE_DEFAULTS = "/etc/sitebdii/glite-info-site-defaults.conf"
LISTS = "/etc/cloudkeeper/image-lists.conf"
SETTINGS = "/etc/fedcloud/appliance.yaml"
_EXAMPLES = ("SITE-NAME", "PROJECT-NAMES", "example.com", "yourkeystone", "vo.example.org")

Texts = Mapping[str, str]
"""The text of each file, by its path as on the appliance."""


def paths(layout: Layout) -> dict[str, str]:
    """Return the paths of the backend's configuration and of the two mappings, by name."""
    mounts = site_files.choose(site_files.variables(layout), layout)
    backend, mapping = mounts[site_files.BACKEND_CONFIG], mounts["FEDCLOUD_BACKEND_MAPPING"]
    return {"backend": backend, "mapping": mapping, "caso-mapping": mounts["FEDCLOUD_CASO_MAPPING"]}


def defaults(texts: Texts, places: Mapping[str, str], host: Host, layout: Layout) -> dict[str, str]:
    """Return the values in the files, by question; shipped examples do not count."""
    found = {
        "flows": " ".join(flow for flow in Flow if host.flows[flow]),
        "site": _value(texts.get(CASO, ""), "site_name")
        or _value(texts.get(SITE, ""), "SITE_NAME"),
        "keystone": _value(texts.get(CASO, ""), "auth_url")
        or _value(texts.get(RC, ""), "OS_AUTH_URL"),
        "authorities": _value(texts.get(site_files.ENVIRONMENT, ""), "FEDCLOUD_CA_BUNDLE"),
        "projects": " ".join(
            f"{vo}={project}" for vo, project in _projects(texts.get(places["mapping"], "")).items()
        ),
        "host": _value(texts.get(SITE_DEFAULTS, ""), "SITE_BDII_HOST"),
        "email": _value(texts.get(SITE, ""), "SITE_EMAIL"),
        "cores": _value(texts.get(CLOUD, ""), "total_cores"),
        "memory": _value(texts.get(CLOUD, ""), "total_ram"),
        "lists": " ".join(
            line for line in texts.get(LISTS, "").splitlines() if line and not line.startswith("#")
        ),
        "accounting-account": _value(texts.get(CASO, ""), "username"),
        "information-account": _value(texts.get(RC, ""), "OS_USERNAME"),
        "images-account": _value(texts.get(places["backend"], ""), "username"),
    }
    found = {
        key: "" if any(word in value for word in _EXAMPLES) else value
        for key, value in found.items()
    }
    passwords = {
        Flow.ACCOUNTING: _value(texts.get(CASO, ""), "password"),
        Flow.INFORMATION: _value(texts.get(RC, ""), "OS_PASSWORD"),
        Flow.IMAGES: _value(texts.get(places["backend"], ""), "password"),
    }
    # A password is never shown as a default: KEEP stands for it.
    found |= {f"{flow}-password": KEEP for flow, password in passwords.items() if password}
    for key, name in (("certificate", hostkey.CERTIFICATE), ("key", hostkey.KEY)):
        found[key] = str(layout.path(name)) if layout.path(name).is_file() else ""
    names = {f"{flow}-account": flow.value for flow in Flow}
    found |= {key: name for key, name in names.items() if not found[key]}
    # Other sites cannot resolve a name without a domain.
    found["host"] = found["host"] or (socket.getfqdn() if "." in socket.getfqdn() else "")
    return found


def _value(text: str, option: str) -> str:
    found = re.findall(rf"^\s*(?:export\s+)?{option}[ \t]*[=:][ \t]*(.*)$", text, re.MULTILINE)
    return found[-1].strip().strip("'\"") if found else ""


def _projects(text: str) -> dict[str, str]:
    """Return the first project of each VO of a mapping; nothing if it cannot be parsed."""
    try:
        mapping = json.loads(text)
        entries = {
            vo: entry.get("projects", [entry.get("project") or entry.get("tenant")])
            for vo, entry in mapping.items()
        }
        return {vo: str(projects[0]) for vo, projects in entries.items() if projects}
    except (ValueError, AttributeError, TypeError, KeyError):
        return {}


def changed(
    answers: Answers, texts: Texts, places: Mapping[str, str], profile: str
) -> Iterator[tuple[str, str]]:
    """Yield path and new text of each file that answers go to, with the defaults of a profile."""
    yield SETTINGS, _flows(answers, texts[SETTINGS])
    yield (
        site_files.ENVIRONMENT,
        edit.set_variable(texts[site_files.ENVIRONMENT], "FEDCLOUD_CA_BUNDLE", answers.authorities),
    )
    mapping = {vo: {"projects": [project]} for vo, project in answers.projects.items()}
    for place in dict.fromkeys((places["mapping"], places["caso-mapping"])):
        yield place, _mapping(place, texts[place], mapping)
    if account := answers.accounts.get(Flow.ACCOUNTING):
        yield CASO, _caso(answers, account, texts[CASO])
    if account := answers.accounts.get(Flow.INFORMATION):
        yield RC, _rc(answers, account, texts[RC])
        text = edit.set_yaml(texts[CLOUD], "site", "name", answers.site)
        text = edit.set_yaml(text, "compute", "total_cores", answers.cores)
        text = edit.set_yaml(text, "compute", "total_ram", answers.memory)
        yield CLOUD, edit.set_shares(text, answers.projects)
        yield from _site(answers, texts)
    if account := answers.accounts.get(Flow.IMAGES):
        text = _with_sharing(texts[places["backend"]], profile)
        yield places["backend"], _keystone(answers, account, text, "keystone_authtoken")
        yield LISTS, edit.set_lines(texts[LISTS], answers.lists)


def _with_sharing(text: str, profile: str) -> str:
    """Return the backend's file with the profile's default for a site that has no images yet.

    A site whose account is in the file runs already, and keeps what it has.
    """
    is_new = not _value(text, "password") and not _value(text, "image_sharing")
    if is_new and profile == PROFILES[0]:
        return edit.set_ini(text, "DEFAULT", "image_sharing", "share")
    return text


def _flows(answers: Answers, text: str) -> str:
    for flow in Flow:
        text = edit.set_yaml(text, "flows", flow.value, "on" if flow in answers.flows else "off")
    return text


def _mapping(place: str, text: str, wanted: Mapping[str, object]) -> str:
    try:
        present = json.loads(text)
        kept = {
            vo: entry
            for vo, entry in present.items()
            if vo not in wanted and entry != {"tenant": "mytenant"}
        }
    except (ValueError, AttributeError) as error:
        raise ConfigurationError(
            [
                Problem(
                    Path(place),
                    0,
                    "",
                    f"is not a mapping of VOs: {error}; correct it, or write {{}} into it",
                )
            ]
        ) from error
    return json.dumps({**kept, **wanted}, indent=2) + "\n"


def _caso(answers: Answers, account: CloudAccount, text: str) -> str:
    text = edit.set_ini(text, "DEFAULT", "site_name", answers.site)
    text = edit.set_ini(text, "DEFAULT", "projects", ", ".join(answers.projects.values()))
    return _keystone(answers, account, text, "keystone_auth")


def _keystone(answers: Answers, account: CloudAccount, text: str, section: str) -> str:
    for option, value in (
        ("auth_url", answers.keystone),
        ("username", account.name),
        ("user_domain_name", "Default"),
        ("password", edit.oslo_value(account.password)),
    ):
        if value:  # an empty password keeps the one in the file
            text = edit.set_ini(text, section, option, value)
    return text


def _rc(answers: Answers, account: CloudAccount, text: str) -> str:
    for name, value in (
        ("OS_AUTH_URL", answers.keystone),
        ("OS_USERNAME", account.name),
        ("OS_PASSWORD", account.password),
    ):
        if value:  # an empty password keeps the one in the file
            text = edit.set_variable(text, name, value, prefix="export ")
    return text


def _site(answers: Answers, texts: Texts) -> Iterator[tuple[str, str]]:
    text = edit.set_ini(texts[SITE], "", "SITE_NAME", answers.site)
    for option in ("SITE_EMAIL", "SITE_SECURITY_EMAIL", "SITE_SUPPORT_EMAIL"):
        text = edit.set_ini(text, "", option, answers.email)
    yield SITE, text
    text = edit.set_variable(texts[SITE_DEFAULTS], "SITE_NAME", answers.site)
    yield SITE_DEFAULTS, edit.set_variable(text, "SITE_BDII_HOST", answers.host)
