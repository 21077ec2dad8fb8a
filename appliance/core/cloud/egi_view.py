"""What EGI's monitoring and users need of a cloud, tried by a program's check: ``--as-egi``.

`appliance check --as-egi` gives the flags to the programs that have an account of the cloud.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from appliance.core.cloud import entitlements, monitored
from appliance.core.cloud.entitlements import VOProject
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.config.settings import KEYSTONE, VO, note_fact
from appliance.core.egi_flags import AsEgi
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding, place


def note_site(url: str, where: str, projects: Sequence[VOProject]) -> None:
    """Note Keystone's URL, set at ``FILE:LINE``, and the VOs, to compare with EGI's services."""
    path, line = place(where)
    note_fact(KEYSTONE, url, path=Path(path), line=line)
    for one in projects:
        path, line = place(one.place)
        note_fact(VO, one.vo, path=Path(path), line=line)


def findings(
    cloud: Cloud,
    projects: Sequence[VOProject],
    scope: Callable[[VOProject], Scope],
    asked: AsEgi,
) -> Iterator[Finding]:
    """Yield what would keep EGI's monitoring and users out (C71, C73)."""
    ours = [one for one in projects if one.vo == asked.vo]
    if not ours:
        text = (
            f"no project of the VO {asked.vo} is known here, so EGI's monitoring cannot boot a"
            " server; make one, and add the VO"
        )
        yield Finding("", 0, "", text, "C71", tried=f"projects of the VO {asked.vo}")
    for one in ours[:1]:
        tried = f"the steps of EGI's nova probe in the project {one.project_id}"
        try:
            for found in monitored.findings(scope(one), image=asked.image, writes=asked.writes):
                yield _placed(found, one, tried)
        except ApplianceError as error:
            yield _placed(Finding("", 0, "", " ".join(str(error).split()), "C71"), one, tried)
    yield from entitlements.findings(cloud, projects)


def _placed(found: Finding, one: VOProject, tried: str) -> Finding:
    path, line = place(one.place)
    return Finding(
        path, line, one.vo, found.text, found.identifier, is_error=found.is_error, tried=tried
    )
