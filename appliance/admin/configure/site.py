"""The options that each answer goes to, and their present values."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from appliance.admin.configure import edit, shares, table
from appliance.admin.configure.answers import KEEP, Answers, CloudAccount
from appliance.admin.inventory import Flow
from appliance.admin.migrate import oslo_lines
from appliance.admin.mounts import site_files
from appliance.admin.run import hostkey
from appliance.admin.settings import PROFILES, Host
from appliance.core.cloud import vo as vo_mapping
from appliance.core.config import ini, shell, yaml_file
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout

CASO = "/etc/caso/caso.conf"
SENDER = "/etc/apel/sender.cfg"
RC = "/etc/cloud-info-provider/openstack.rc"
CLOUD = "/etc/cloud-info-provider/openstack.yaml"
SITE = "/etc/sitebdii/site.cfg"
SITE_DEFAULTS = "/etc/sitebdii/glite-info-site-defaults.conf"
LISTS = "/etc/cloudkeeper/image-lists.conf"
SETTINGS = "/etc/fedcloud/appliance.yaml"
NAMES = (CASO, SENDER, RC, CLOUD, SITE, SITE_DEFAULTS, LISTS, SETTINGS, site_files.ENVIRONMENT)
"""The files that answers go to, besides those of `paths`."""
_SECRETS = {
    Flow.ACCOUNTING: "/etc/caso/caso.conf.d",
    Flow.INFORMATION: "/etc/cloud-info-provider",
    Flow.IMAGES: "/etc/cloudkeeper/secrets",
}
"""The directory of each flow whose files its container sees."""
_EXAMPLES = ("SITE-NAME", "PROJECT-NAMES", "example.com", "yourkeystone", "vo.example.org")
_SENDER = {
    True: {
        ("sender", "protocol"): "AMS",
        ("broker", "host"): "msg.argo.grnet.gr",
        ("messaging", "destination"): "eu-egi-cloud-accounting",
    },
    False: {("sender", "protocol"): "STOMP", ("broker", "use_ssl"): "true"},
}
"""By whether the federation is EGI, the options of the sender that follow from the profile."""

Texts = Mapping[str, str]
"""The text of each file, by its path as on the appliance."""


def paths(layout: Layout) -> dict[str, str]:
    """Return the paths of the backend's configuration and of the two mappings, by name."""
    mounts = site_files.choose(site_files.variables(layout), layout)
    backend, mapping = mounts[site_files.BACKEND_CONFIG], mounts["FEDCLOUD_BACKEND_MAPPING"]
    return {"backend": backend, "mapping": mapping, "caso-mapping": mounts["FEDCLOUD_CASO_MAPPING"]}


def secrets(host: Host, layout: Layout) -> dict[Flow, str]:
    """Return the directory in which a file of a secret must be, by flow; none natively."""
    if host.is_native:
        return {}
    return {flow: str(layout.path(name)) for flow, name in _SECRETS.items()}


def parse_all(texts: Texts, places: Mapping[str, str], layout: Layout) -> None:
    """Check that each file has the form that its program reads.

    Raises:
        ConfigurationError: Some have not; it has the problems of all.

    """
    dialects: dict[str, Callable[[Path, str], object]] = {
        CASO: oslo_lines.parse,
        places["backend"]: oslo_lines.parse,
        SENDER: ini.parse,
        RC: shell.parse,
        SITE_DEFAULTS: shell.parse,
        SITE: _parse_site,
        CLOUD: yaml_file.parse,
        places["mapping"]: vo_mapping.parse_mapping,
        places["caso-mapping"]: vo_mapping.parse_mapping,
    }
    problems: list[Problem] = []
    for name, parse in dialects.items():
        try:
            parse(layout.path(name), texts[name].removeprefix("\ufeff"))
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)


def _parse_site(path: Path, text: str) -> None:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and line.lstrip()[0] != "#" and "=" not in line:
            problem = Problem(path, number, "", f"not 'KEY = value': {line[:40]!r}")
            raise ConfigurationError([problem])


def defaults(texts: Texts, places: Mapping[str, str], host: Host, layout: Layout) -> dict[str, str]:
    """Return the values in the files, by question; shipped examples do not count."""
    caso, rc, backend = texts[CASO], texts[RC], texts[places["backend"]]
    # The form of EGI's catch-all has no cores and memory, so there is nothing to answer.
    unset = "0" if shares.is_catch_all(layout.path(CLOUD), texts[CLOUD]) else ""
    found = {
        "profile": host.profile,
        "flows": " ".join(flow for flow in Flow if host.flows[flow]),
        "site": _value(caso, "site_name") or _value(texts[SITE], "SITE_NAME"),
        "keystone": _value(caso, "auth_url") or _value(rc, "OS_AUTH_URL"),
        "authorities": _value(texts[site_files.ENVIRONMENT], "FEDCLOUD_CA_BUNDLE"),
        "region": _value(caso, "region_name") or _value(rc, "OS_REGION_NAME"),
        "projects": table.text(present_table(texts, places, layout)),
        "host": _value(texts[SITE_DEFAULTS], "SITE_BDII_HOST"),
        "email": _value(texts[SITE], "SITE_EMAIL"),
        "cores": _value(texts[CLOUD], "total_cores") or unset,
        "memory": _value(texts[CLOUD], "total_ram") or unset,
        "lists": " ".join(
            line for line in texts[LISTS].splitlines() if line and not line.startswith("#")
        ),
        "accounting-account": _value(caso, "username"),
        "information-account": _value(rc, "OS_USERNAME"),
        "images-account": _value(backend, "username"),
    }
    found = {
        key: "" if any(word in value for word in _EXAMPLES) else value
        for key, value in found.items()
    }
    if host.profile != PROFILES[0] and _value(texts[SENDER], "protocol") == "STOMP":
        found["broker"] = _value(texts[SENDER], "host")
        found["queue"] = _value(texts[SENDER], "destination")
    # A password is never shown as a default: KEEP stands for it.
    found |= {f"{flow}-password": KEEP for flow in accounts_in(texts, places)}
    for key, name in (("certificate", hostkey.CERTIFICATE), ("key", hostkey.KEY)):
        found[key] = str(layout.path(name)) if layout.path(name).is_file() else ""
    names = {f"{flow}-account": flow.value for flow in Flow}
    found |= {key: name for key, name in names.items() if not found[key]}
    # Other sites cannot resolve a name without a domain.
    found["host"] = found["host"] or (socket.getfqdn() if "." in socket.getfqdn() else "")
    return found


def accounts_in(texts: Texts, places: Mapping[str, str]) -> list[Flow]:
    """Return the flows whose files have an account already: the site is not new."""
    where = {
        Flow.ACCOUNTING: (texts[CASO], "password"),
        Flow.INFORMATION: (texts[RC], "OS_PASSWORD"),
        Flow.IMAGES: (texts[places["backend"]], "password"),
    }
    return [
        flow
        for flow, (text, name) in where.items()
        if _value(text, name) or _value(text, f"{name}_(?:file|FILE)")
    ]


def password_of_accounting(texts: Texts) -> str:
    """Return the password of the account for accounting; empty if a file of its own holds it."""
    entry = oslo_lines.parse(Path(CASO), texts[CASO]).get("keystone_auth", "password")
    return entry.text.replace("$$", "$") if entry else ""


def _value(text: str, option: str) -> str:
    found = re.findall(rf"^\s*(?:export\s+)?{option}[ \t]*[=:][ \t]*(.*)$", text, re.MULTILINE)
    return found[-1].strip().strip("'\"") if found else ""


def present_table(texts: Texts, places: Mapping[str, str], layout: Layout) -> table.Table:
    """Return the projects of each VO that any file names, the mapping of images first."""
    found: dict[str, tuple[str, ...]] = {}
    for place in dict.fromkeys((places["mapping"], places["caso-mapping"])):
        for vo, projects in _mapped(layout.path(place), texts[place]).items():
            found.setdefault(vo, projects)
    for vo, project in shares.projects(layout.path(CLOUD), texts[CLOUD]).items():
        if project:
            found.setdefault(vo, (project,))
    return found


def _mapped(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for entry in vo_mapping.parse_mapping(path, text).entries:
        found[entry.vo] = tuple(dict.fromkeys((*found.get(entry.vo, ()), entry.project)))
    return found


def changed(
    answers: Answers, texts: Texts, places: Mapping[str, str], host: Host, layout: Layout
) -> Iterator[tuple[str, str]]:
    """Yield path and new text of each file that answers go to."""
    yield SETTINGS, _settings(answers, texts[SETTINGS])
    yield (
        site_files.ENVIRONMENT,
        edit.set_variable(texts[site_files.ENVIRONMENT], "FEDCLOUD_CA_BUNDLE", answers.authorities),
    )
    for place in dict.fromkeys((places["mapping"], places["caso-mapping"])):
        yield place, _mapping(layout.path(place), texts[place], answers.projects)
    if account := answers.accounts.get(Flow.ACCOUNTING):
        yield CASO, _caso(answers, account, texts[CASO])
        yield SENDER, _sender(answers, texts[SENDER], host.profile)
    if account := answers.accounts.get(Flow.INFORMATION):
        yield RC, _rc(answers, account, texts[RC])
        yield CLOUD, _cloud(answers, layout.path(CLOUD), texts[CLOUD])
        yield from _site(answers, texts)
    if account := answers.accounts.get(Flow.IMAGES):
        text = _with_sharing(texts[places["backend"]], answers.profile)
        if answers.region:
            text = edit.set_ini(text, "DEFAULT", "region_name", answers.region)
        yield places["backend"], _keystone(answers, account, text, "keystone_authtoken")
        yield LISTS, edit.set_lines(texts[LISTS], answers.lists)


def _cloud(answers: Answers, path: Path, text: str) -> str:
    if not shares.is_catch_all(path, text):
        text = edit.set_yaml(text, "site", "name", answers.site)
        text = edit.set_yaml(text, "compute", "total_cores", answers.cores)
        text = edit.set_yaml(text, "compute", "total_ram", answers.memory)
    first = {vo: projects[0] for vo, projects in answers.projects.items()}
    return shares.set_projects(path, text, first)


def _with_sharing(text: str, profile: str) -> str:
    """Return the backend's file with the profile's default for a site that has no images yet.

    A site whose account is in the file runs already, and keeps what it has.
    """
    has_account = _value(text, "password") or _value(text, "password_file")
    is_new = not has_account and not _value(text, "image_sharing")
    if is_new and profile == PROFILES[0]:
        return edit.set_ini(text, "DEFAULT", "image_sharing", "share")
    return text


def _settings(answers: Answers, text: str) -> str:
    text = edit.set_outermost(text, "profile", answers.profile)
    for flow in Flow:
        text = edit.set_yaml(text, "flows", flow.value, "on" if flow in answers.flows else "off")
    return text


def _mapping(path: Path, text: str, wanted: table.Table) -> str:
    """Return a mapping with exactly these VOs; an entry that is right stays as it was written."""
    if _mapped(path, text) == dict(wanted) and "mytenant" not in text:
        return text
    present: Any = json.loads(text)
    mapped = _mapped(path, text)
    entries = {
        vo: present[vo]
        if vo in present and mapped.get(vo) == projects
        else {"projects": list(projects)}
        for vo, projects in wanted.items()
    }
    return json.dumps(entries, indent=2) + "\n"


def _caso(answers: Answers, account: CloudAccount, text: str) -> str:
    text = edit.set_ini(text, "DEFAULT", "site_name", answers.site)
    listed = [project for projects in answers.projects.values() for project in projects]
    text = edit.set_ini(text, "DEFAULT", "projects", ", ".join(listed))
    if answers.region:
        text = edit.set_ini(text, "DEFAULT", "region_name", answers.region)
    return _keystone(answers, account, text, "keystone_auth")


def _sender(answers: Answers, text: str, before: str) -> str:
    """Return the sender's file for the profile; the same profile of EGI leaves it alone."""
    is_egi = answers.profile == PROFILES[0]
    if is_egi and before == answers.profile:
        return text
    options = dict(_SENDER[is_egi])
    if not is_egi:
        options |= {
            ("broker", "host"): answers.broker,
            ("messaging", "destination"): answers.queue,
        }
    for (section, option), value in options.items():
        text = edit.set_ini(text, section, option, value, separator=": ")
    return text


def _keystone(answers: Answers, account: CloudAccount, text: str, section: str) -> str:
    for option, value in (
        ("auth_url", answers.keystone),
        ("username", account.name),
        ("user_domain_name", "Default"),
        ("password", edit.oslo_value(account.password)),
        ("password_file", account.password_file),
    ):
        if value:  # an empty password keeps the one in the file
            text = edit.set_ini(text, section, option, value)
    other = _replaced(account)
    return edit.remove_ini(text, section, other) if other else text


def _replaced(account: CloudAccount) -> str:
    """Return the option that the answer replaces: the password, or the file of it."""
    if account.password_file:
        return "password"
    return "password_file" if account.password else ""


def _rc(answers: Answers, account: CloudAccount, text: str) -> str:
    for name, value in (
        ("OS_AUTH_URL", answers.keystone),
        ("OS_USERNAME", account.name),
        ("OS_PASSWORD", account.password),
        ("OS_PASSWORD_FILE", account.password_file),
        ("OS_REGION_NAME", answers.region),
    ):
        if value:  # an empty password keeps the one in the file
            text = edit.set_variable(text, name, value, prefix="export ")
    other = _replaced(account)
    return edit.remove_variable(text, f"OS_{other.upper()}") if other else text


def _site(answers: Answers, texts: Texts) -> Iterator[tuple[str, str]]:
    text = edit.set_ini(texts[SITE], "", "SITE_NAME", answers.site)
    for option in ("SITE_EMAIL", "SITE_SECURITY_EMAIL", "SITE_SUPPORT_EMAIL"):
        text = edit.set_ini(text, "", option, answers.email)
    yield SITE, text
    text = edit.set_variable(texts[SITE_DEFAULTS], "SITE_NAME", answers.site)
    yield SITE_DEFAULTS, edit.set_variable(text, "SITE_BDII_HOST", answers.host)
