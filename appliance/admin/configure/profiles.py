"""What another profile changes on a site that runs already."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.admin.inventory import JOBS
from appliance.admin.settings import PROFILES, Host

_TITLES = {
    "egi": "EGI's services of today",
    "2017": "those of 2017",
    "private": "a private federation",
}


def consequences(host: Host, after: str) -> Iterator[str]:
    """Yield lines about a change of the profile; none if it stays."""
    before = host.profile
    if before == after:
        return
    yield f"profile: {before} ({_TITLES[before]}) becomes {after} ({_TITLES[after]})"
    if PROFILES[0] in (before, after):
        yield (
            "records: ssmsend sends to AMS of EGI"
            if after == PROFILES[0]
            else "records: ssmsend sends by STOMP to the broker of the answers, no longer to EGI"
        )
        judged = "reports" if after == PROFILES[0] else "no longer reports"
        yield f"check: `appliance check` {judged} destinations that are for tests"
    for job in JOBS.values():
        if job.profile == before:
            yield (
                f"job {job.name}: a new schedule leaves it out; a job that is scheduled stays:"
                f" appliance schedule --without {job.name} ends it"
            )
        elif job.profile == after:
            yield f"job {job.name}: appliance schedule --with {job.name} starts it"
