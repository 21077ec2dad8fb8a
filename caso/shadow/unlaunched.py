"""Servers that were never launched, noted while Nova still shows them.

Such a server has used nothing, so we have no record of it. cASO reports it all the same: a second
while it exists, and its whole life when it has been deleted. Nova's listing of changes is the only
one that shows it then, so a shadow asks for the changes since it asked last.
"""

from __future__ import annotations

from appliance.core import clock
from appliance.core.cloud.compute import Servers
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import ApplianceError
from caso.selection import select
from caso.settings import CasoConfiguration
from caso.shadow.directory import Shadow
from caso.sources.listing import OVERLAP


def note(configuration: CasoConfiguration, shadow: Shadow) -> list[ApplianceError]:
    """Add the servers to the shadow, and return what failed.

    After a failure the next run asks from the same time on.
    """
    now = clock.now()
    asked, unlaunched = shadow.unlaunched()
    failures: list[ApplianceError] = []
    try:
        cloud = Cloud(configuration.access)
        selected, _ = select(cloud, configuration)  # the run before has reported the failures
    except ApplianceError as error:
        return [error]
    for one in selected:
        for region in configuration.regions:
            try:
                scope = cloud.in_region(region).project(one.project.id)
                for server in Servers(scope).changed(asked):
                    if server.get("OS-SRV-USG:launched_at"):
                        unlaunched.discard(str(server["id"]))  # it was being built
                    else:
                        unlaunched.add(str(server["id"]))
            except ApplianceError as error:
                failures.append(error)
    shadow.note_unlaunched(asked if failures else now - OVERLAP, unlaunched)
    return failures
