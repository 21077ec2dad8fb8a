"""What the next run of each job would change, as its own dry run or the spool says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from appliance.admin.diff import information
from appliance.admin.inventory import JOBS as INVENTORY
from appliance.admin.settings import Host
from appliance.admin.status import destinations
from appliance.core import clock, senders
from appliance.core.config import document, ini
from appliance.core.config.settings import Settings
from appliance.core.run import lock, output
from appliance.core.run.errors import ApplianceError, LocalFailure, Unavailable
from appliance.core.run.layout import Layout
from appliance.core.spool import Spool

_GRACE = timedelta(seconds=60)
"""Time for a run to stop its program after its time limit."""
_MOST_MESSAGES = 10_000
"""Messages whose sizes are read."""
_LONGEST_ANSWER = 64 * 2**20
_WORDS = {"Create": "to add", "Update": "to update", "UpdateMetadata": "to describe"}
_WORDS |= {"Remove": "to remove", "Hide": "to hide"}


@dataclass(frozen=True, slots=True)
class JobForecast:
    """What a run would change: a line for each part, and figures; or why that is not known."""

    job: str
    lines: Sequence[str] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""


Make = Callable[[Layout, Host, timedelta], JobForecast]


def _guarded(job: str, make: Make) -> Make:
    """Return a maker that reports its failure in place of raising it."""

    def made(layout: Layout, host: Host, limit: timedelta) -> JobForecast:
        try:
            return make(layout, host, limit)
        except ApplianceError as error:
            return JobForecast(job, failure=str(error))
        except OSError as error:
            return JobForecast(job, failure=str(LocalFailure.from_os(error)))
        except (LookupError, TypeError, ValueError, AttributeError):
            words = "its dry run printed something else than its JSON; see appliance check"
            return JobForecast(job, failure=words)

    return made


def _accounting(layout: Layout, host: Host, limit: timedelta) -> JobForecast:
    """Return the records of each month and kind, with the hours that they add."""
    rows = _asked("caso", ["--dry-run", "--json"], layout, host, limit)
    months: dict[tuple[str, str], Counter[str]] = {}
    total: Counter[str] = Counter()
    for row in rows:
        found = months.setdefault((str(row["month"]), str(row["kind"])), Counter())
        for name in ("records", "more_hours", "messages", "withheld", "quarantined"):
            number = row[name] or 0
            found[name] += number
            total[name] += number
    lines = [_month(*place, found) for place, found in sorted(months.items()) if found.total()]
    return JobForecast("caso", lines, {name: round(number, 2) for name, number in total.items()})


def _month(month: str, kind: str, found: Counter[str]) -> str:
    words = [f"{found['records']} records of {kind}"]
    if found["more_hours"]:
        words.append(f"{found['more_hours']:+.1f} h")
    words.append(output.count(found["messages"], "message"))
    words += [f"{found[name]} {name}" for name in ("withheld", "quarantined") if found[name]]
    return f"{month}: {', '.join(words)}"


def _sending(layout: Layout, _host: Host, _limit: timedelta) -> JobForecast:
    """Return the messages of each destination, from the spools themselves."""
    lines, figures = [], Counter({"messages": 0, "bytes": 0})
    for path in senders.configurations(layout).paths:
        if not path.exists():
            raise Unavailable(path, "does not exist", "run appliance configure")
        settings = Settings(document.read([path], ini.parse))
        state = destinations.state_of(path, settings, {}, layout=layout, now=clock.now())
        if state.problem:
            raise Unavailable("", state.problem)
        size = sum(_sizes(state.spool))
        figures.update({"messages": state.queued, "bytes": size})
        if state.queued:
            least = "at least " if state.queued > _MOST_MESSAGES else ""
            words = f"{output.count(state.queued, 'message')}, {least}{output.size(size)}"
            lines.append(f"{words}, to {state.name}")
    return JobForecast("ssmsend", lines, dict(figures))


def _sizes(path: Path) -> Iterator[int]:
    spool = Spool(path)
    for number, name in enumerate(spool.names()):
        if number == _MOST_MESSAGES:
            return
        yield spool.size(name)


def _information(layout: Layout, host: Host, _limit: timedelta) -> JobForecast:
    """Return how many facts EGI's information service has otherwise."""
    if not host.egi.information:
        words = "is empty, so there is nothing to compare with"
        raise Unavailable(f"information in the block egi of {host.settings_file}", words)
    found = information.of_own_file(layout, host)
    counted = Counter(one.what for one in found)
    lines = [f"{number} of {what} differ from what EGI serves" for what, number in counted.items()]
    lines += ["see appliance diff information"] if found else []
    return JobForecast("cloud-info-json", lines, {"differences": len(found)})


def _images(layout: Layout, host: Host, limit: timedelta) -> JobForecast:
    """Return the changes of images, counted by what is to be done, and what is held back."""
    tree = _asked("cloudkeeper", ["plan", "--json"], layout, host, limit)
    counted = Counter(str(change["action"]) for change in tree["changes"])
    size = sum(change["bytes"] or 0 for change in tree["changes"])
    words = [f"{counted[action]} {word}" for action, word in _WORDS.items() if counted[action]]
    lines = [", ".join(words)] if words else []
    if size:
        lines.append(f"{output.size(size)} to transfer")
    if tree["withheld"]:
        lines.append(f"{output.count(tree['withheld'], 'removal')} held back")
    lines += [f"! {line}" for line in tree["failures"]]
    figures = {action.lower(): counted[action] for action in _WORDS}
    rest = {"bytes": size, "unchanged": tree["unchanged"], "withheld": tree["withheld"]}
    return JobForecast("cloudkeeper", lines, figures | rest)


def _asked(job: str, words: Sequence[str], layout: Layout, host: Host, limit: timedelta) -> Any:
    """Return the JSON that a job's program prints with these arguments.

    Raises:
        Unavailable: it runs just now, fails, or takes too long.
        ValueError: it printed something else.

    """
    if running := lock.holder(layout.path(f"/run/fedcloud/{job}.lock")):
        raise Unavailable("", f"is {running}; ask again when it has ended")
    try:
        done = subprocess.run(
            _command(job, words, layout, host, limit),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=(limit + _GRACE).total_seconds(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        remedy = "give it longer with --timeout"
        raise Unavailable("", f"its dry run did not end within {limit.seconds} s", remedy) from None
    if not done.stdout.strip() or len(done.stdout) > _LONGEST_ANSWER:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        words_of_it = lines[-1].removeprefix("appliance: ") if lines else "it printed nothing"
        raise Unavailable("", words_of_it)
    return json.loads(done.stdout)


def _command(
    job: str, words: Sequence[str], layout: Layout, host: Host, limit: timedelta
) -> list[str]:
    """Return the command of a dry run; beside upstream's tools, of a program in our environment."""
    root = ["--root", str(layout.root)]
    if not host.is_beside:
        ours = [sys.executable, "-m", "appliance.admin.command", "run", job]
        return [*ours, "--timeout", str(int(limit.total_seconds())), *root, "--", *words]
    name = INVENTORY[job].command[0]
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        extra = INVENTORY[job].service
        raise Unavailable(
            program, "is not installed", f"install the extra {extra} into this environment"
        )
    return [str(program), *words, *root]


JOBS: Mapping[str, Make] = {
    "caso": _guarded("caso", _accounting),
    "ssmsend": _guarded("ssmsend", _sending),
    "cloud-info-json": _guarded("cloud-info-json", _information),
    "cloudkeeper": _guarded("cloudkeeper", _images),
}
"""By job, what makes its forecast; fetch-crl always fetches all lists."""
