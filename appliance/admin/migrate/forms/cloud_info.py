"""``openstack.rc`` and ``openstack.yaml`` of cloud-info-provider, and the files of the site BDII.

The description of the cloud is read in the forms of all releases, so it is carried as it is. The
account is changed from Keystone's version 2 to 3. The release of 2022 gave the file to Docker,
which takes quotes and blanks literally; a shell's quotes make the value what it was meant to be.
"""

from __future__ import annotations

import re

from appliance.admin.configure import edit
from appliance.admin.migrate import lines
from appliance.admin.migrate.workspace import Workspace
from appliance.core.config import shell
from appliance.core.config.document import Document
from appliance.core.run.errors import ConfigurationError

RC = "/etc/cloud-info-provider/openstack.rc"
YAML = "/etc/cloud-info-provider/openstack.yaml"
_CARRIED = (
    YAML,
    "/etc/sitebdii/site.cfg",
    "/etc/sitebdii/glite-info-site-defaults.conf",
    "/etc/sitebdii/site-urls.conf",
)
_TENANT = {"OS_TENANT_NAME": "OS_PROJECT_NAME", "OS_TENANT_ID": "OS_PROJECT_ID"}
_OF_VERSION_3 = {
    "OS_USER_DOMAIN_ID": "default",
    "OS_PROJECT_DOMAIN_ID": "default",
    "OS_IDENTITY_API_VERSION": "3",
}
_DOMAIN = re.compile(r"OS_(USER|PROJECT)_DOMAIN_(ID|NAME)")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def convert(work: Workspace) -> None:
    """Plan the files of the information system."""
    for name in _CARRIED:
        work.read(name)
    found = _account(work)
    if found is None:
        return
    options = found.sections.get(shell.SECTION, {})
    text = work.planned[RC]
    for old, new in _TENANT.items():
        if old in options and new not in options:
            text = lines.renamed(text, options[old].line, old, new)
    url = options.get("OS_AUTH_URL")
    if url and lines.is_version_2(url.text):
        text = lines.with_version_3(text, url.line)
        prefix = "export " if re.search(r"^\s*export\s", text, re.MULTILINE) else ""
        for name, value in _OF_VERSION_3.items():
            if name not in options and not _has_domain(options, name):
                text = edit.set_variable(text, name, value, prefix=prefix)
        work.note(RC, url.line, "OS_AUTH_URL was v2.0: became v3, domains guessed as default")
    work.planned[RC] = text


def _has_domain(options: object, name: str) -> bool:
    """Return whether a domain is set under its other name, that of the domain or its id."""
    other = name.replace("_ID", "_NAME") if _DOMAIN.fullmatch(name) else name
    return isinstance(options, dict) and other in options


def _account(work: Workspace) -> Document | None:
    """Return the variables; a file for Docker, which no shell could read, is quoted first."""
    text = work.read(RC)
    if text is None:
        return None
    is_exported = re.search(r"^\s*export\s", text, re.MULTILINE) is not None
    quoted = re.search(r"""^[A-Za-z_]\w*=(["']).*\1\s*$""", text, re.MULTILINE)
    if quoted and not is_exported:
        line = text[: quoted.start()].count("\n") + 1
        words = "the file was given to Docker, which keeps quotes: they are removed from now on"
        work.note(RC, line, words)
    try:
        return shell.parse(work.path(RC), text)
    except ConfigurationError as error:
        if is_exported:
            work.findings += error.problems
            return None
    work.planned[RC] = "\n".join(_requoted(line) for line in text.split("\n"))
    work.note(RC, 0, "was a file for Docker: values with blanks or signs are quoted from now on")
    return work.parse(RC, shell.parse)


def _requoted(line: str) -> str:
    """Return an assignment of a file for Docker as one of a shell; other lines stay."""
    match = _ASSIGNMENT.fullmatch(line.rstrip("\r"))
    if match is None:
        return line
    value = match[2]
    if value[:1] == value[-1:] and value[:1] in ("'", '"') and len(value) > 1:
        value = value[1:-1]
    return edit.set_variable("", match[1], value).strip("\n")
