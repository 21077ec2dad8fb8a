"""``appliance config show``: each value that a program has read, and the line that sets it.

Programs mask secrets before they print a value, so none leaves its container.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from appliance.admin import inventory, settings
from appliance.admin.check.inside import Depth, ProgramSettings
from appliance.admin.check.programs import Programs
from appliance.admin.mounts import site_files
from appliance.admin.settings import Host
from appliance.core.config import settings as options
from appliance.core.config import shell
from appliance.core.config.settings import Value
from appliance.core.run import log, output
from appliance.core.run.errors import ExitStatus
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

_HOST = "appliance"


def run(
    host: Host, layout: Layout, names: Sequence[str], *, is_set_only: bool, as_json: bool
) -> ExitStatus:
    """Print the settings of the host, then those of each program; return whether all answered."""
    read, failures = programs(host, layout, names)
    found = [ProgramSettings(_HOST, tuple(of_host(layout))), *read]
    if is_set_only:
        found = [
            ProgramSettings(one.program, tuple(value for value in one.values if is_set(value)))
            for one in found
        ]
    if as_json:
        output.document({"programs": [_as_json(one) for one in found]})
    else:
        for one in found:
            _print(one)
    for failure in failures:
        output.remark(f"config: {failure.program}: {failure}")
    return ExitStatus.PARTLY if failures else ExitStatus.DONE


Reading = tuple[list[ProgramSettings], list[Finding]]
"""What programs have read, and the errors of those whose values are incomplete."""


def programs(host: Host, layout: Layout, names: Sequence[str]) -> Reading:
    """Return what the programs have read, and the errors of those whose values are incomplete."""
    services = {name: service(name) for name in names}
    asked = Programs(host, layout, services, depth=Depth.SHOWN)
    found: dict[ProgramSettings, None] = {}
    failures: list[Finding] = []
    for name in names:
        answer = asked.answer(name)
        # Several services may have one program with one configuration.
        found |= dict.fromkeys(answer.settings)
        failures += [one for one in answer.findings if one.is_error]
    return list(found), failures


def of_host(layout: Layout) -> Iterator[Value]:
    """Yield the values of ``appliance.yaml`` and ``appliance.env``."""
    log.check_only(is_on=False, is_showing=True)
    try:
        settings.load(layout)
    finally:
        log.check_only(is_on=False)
    yield from options.shown()
    environment = site_files.environment(layout)
    for name, entry in environment.sections.get(shell.SECTION, {}).items():
        text = options.masked(name, entry.text)
        yield Value(shell.SECTION, name, text, entry.path, entry.line)


def is_set(value: Value) -> bool:
    """Check whether a file, the environment or a flag sets a value."""
    return value.place != "default"


def service(name: str) -> str:
    """Return the service of the compose file that a job or service runs in."""
    return name if name in inventory.SERVICES else inventory.JOBS[name].service


def _print(one: ProgramSettings) -> None:
    output.line(f"{one.program}:")
    rows = [(value.place, f"{value.named} = {value.text}".rstrip()) for value in _sorted(one)]
    if rows:
        output.table(rows, indent="  ")


def _sorted(one: ProgramSettings) -> list[Value]:
    """Return the values in the order of their files; defaults last."""
    return sorted(
        one.values,
        key=lambda value: (not is_set(value), str(value.path), value.line, value.named),
    )


def _as_json(one: ProgramSettings) -> dict[str, object]:
    values = [
        {
            "section": value.section,
            "option": value.option,
            "value": value.text,
            "file": str(value.path) if is_set(value) else None,
            "line": value.line or None,
        }
        for value in _sorted(one)
    ]
    return {"program": one.program, "settings": values}
