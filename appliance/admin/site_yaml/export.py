"""``appliance export-site-yaml``: print this site as a file of EGI's catch-all.

The values are those that the programs have read (`appliance.admin.config.show`). A flow that is on
here is off in the file, so that two services never do the same.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from appliance.admin import settings
from appliance.admin.accounts import needs
from appliance.admin.check.inside import ProgramSettings
from appliance.admin.config import show
from appliance.admin.config.show import Reading
from appliance.admin.inventory import Flow
from appliance.admin.settings import Host
from appliance.admin.site_yaml import schema
from appliance.admin.site_yaml.schema import SiteYaml
from appliance.core import files
from appliance.core.cloud import vo
from appliance.core.config.settings import Value
from appliance.core.run import cli, output
from appliance.core.run.errors import ConfigurationError, ExitStatus, Unavailable, UsageError
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

_INFORMATION, _ACCOUNTING = "cloud-info-provider-service", "caso-extract"
_IMAGES = "cloudkeeper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--output",
        type=cli.file_to_write,
        metavar="FILE",
        help="file to write (default: standard output)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print or write the file."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    if not (host.is_native or host.is_beside):
        settings.require_files(host)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        words = "sudo appliance export-site-yaml"
        raise UsageError("export-site-yaml", "only root can read all files", words)
    found = of_host(host, layout)
    for name, text in (("site's name", found.gocdb), ("VOs", " ".join(found.projects))):
        if not text:
            output.remark(f"export-site-yaml: the {name} is in no file of this site")
    text = schema.text(found)
    if arguments.output:
        files.write_atomic(arguments.output.absolute(), text.encode(), mode=0o644)
    else:
        print(text, end="")
    return ExitStatus.DONE


def of_host(host: Host, layout: Layout, reading: Reading | None = None) -> SiteYaml:
    """Return this site; ``reading`` is what the programs have read already.

    Raises:
        Unavailable: Neither the information's program nor the accounting's has a valid
            configuration; the first fault of each is named.

    """
    names = names_asked(host)
    read, failures = reading or show.programs(host, layout, names)
    by_program = {one.program: one for one in read}
    broken = {one.program: one for one in reversed(failures)}
    information = by_program.get(_INFORMATION) if names[0] not in broken else None
    accounting = by_program.get(_ACCOUNTING) if "caso" not in broken else None
    if not ((information and information.values) or (accounting and accounting.values)):
        raise _nothing(broken)
    name = _name(accounting, "site_name") if accounting else ""
    gocdb = (
        _of(information, ("DEFAULT", "gocdb"), ("site", "name")) if information else ""
    ) or name
    images = by_program.get(_IMAGES)
    return SiteYaml(
        gocdb=gocdb,
        endpoint=_first((information, "OS", "auth_url"), (accounting, "keystone_auth", "auth_url")),
        region=_first(
            (information, "OS", "region_name"), (accounting, "DEFAULT", "region_name")
        ).partition(",")[0],
        protocol=_set(information, "OS", "protocol"),
        projects=_projects(host, layout, information),
        sync=not host.flows[Flow.IMAGES],
        formats=_formats(images),
        accounts=not host.flows[Flow.ACCOUNTING],
        accounting_name=name if name != gocdb else "",
    )


def names_asked(host: Host) -> list[str]:
    """Return the jobs and services that are asked: the information's first."""
    information = "cloud-info" if host.is_beside else "cloudbdii"
    return [information, "caso", *([] if host.is_beside else ["cloudkeeper"])]


def _nothing(broken: Mapping[str, Finding]) -> Unavailable:
    causes = "; ".join(
        f"{name}: {one}" if name else str(one)  # one of no program, such as the engine's
        for name, one in broken.items()
        if name != "cloudkeeper"
    )
    cause = f"no program has a valid configuration: {causes or 'none has answered'}"
    return Unavailable("export-site-yaml", cause, "appliance check --offline")


def _first(*places: tuple[ProgramSettings | None, str, str]) -> str:
    texts = (one.get(section, option) for one, section, option in places if one)
    return next(filter(None, texts), "")


def _of(one: ProgramSettings, *places: tuple[str, str]) -> str:
    return _first(*((one, section, option) for section, option in places))


def _name(accounting: ProgramSettings, option: str) -> str:
    return accounting.get("DEFAULT", option)


def _set(one: ProgramSettings | None, section: str, option: str) -> str:
    """Return a value that a file sets; empty for a default."""
    value: Value | None = one.find(section, option) if one else None
    return value.text if value and value.line else ""


def _formats(images: ProgramSettings | None) -> tuple[str, ...]:
    text = _set(images, "cloudkeeper", "formats")
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _projects(host: Host, layout: Layout, information: ProgramSettings | None) -> Mapping[str, str]:
    """Return the project of each VO: of the information, else of the accounting's table."""
    shares: Sequence[needs.ServedProject] = list(needs.shares(information)) if information else ()
    found = {one.vo: one.project for one in reversed(shares) if one.vo}
    if found:
        return dict(reversed(found.items()))
    try:
        mapping = vo.read_mapping(layout.path(host.mounts["FEDCLOUD_CASO_MAPPING"]))
    except ConfigurationError:
        return {}  # a site whose projects have their VOs in Keystone has no table
    return {entry.vo: entry.project for entry in mapping.entries}


VERB = cli.Program(
    "export-site-yaml",
    "Print this site as a file of EGI's catch-all.",
    add_arguments,
    run,
)
